"""Training, prediction and serving: the only importer of Lightning Fabric."""
