"use strict";
(function () {
  var root = document.documentElement;

  /* Theme: the system's choice, unless the address ends in #dark or #light or the button says otherwise. */
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var redraw = function () {};
  function now() { return root.dataset.theme || (dark.matches ? "dark" : "light"); }
  function fromAddress() {
    if (location.hash === "#dark" || location.hash === "#light") { root.dataset.theme = location.hash.slice(1); redraw(); }
  }
  fromAddress();
  window.addEventListener("hashchange", fromAddress);
  dark.addEventListener("change", function () { redraw(); });
  document.getElementById("theme").addEventListener("click", function () {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    redraw();
  });

  /* On paper nothing can be opened: print everything. */
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details:not([open])").forEach(function (box) { box.open = true; box.dataset.printed = "1"; });
  });
  window.addEventListener("afterprint", function () {
    document.querySelectorAll("details[data-printed]").forEach(function (box) { box.open = false; delete box.dataset.printed; });
  });

  /* Heat map: one canvas, one byte a cell (255 = not judged). */
  var holder = document.getElementById("heat-data");
  if (!holder) { return; }
  var data = JSON.parse(holder.textContent);
  var canvas = document.getElementById("heat"), reading = document.getElementById("heat-reading"), select = document.getElementById("heat-order");
  var names = document.querySelectorAll(".map .names li");
  var models = data.models.length, cases = data.cases.length, row = 22;
  var raw = atob(data.cells), order = data.orders.hardest, at = null, width = 0;
  document.querySelector(".heat").hidden = false;
  document.getElementById("heatmap").classList.add("ready");

  function byte(m, c) { return raw.charCodeAt(m * cases + c); }
  function value(m, c) { var b = byte(m, c); return b === 255 ? null : data.origin + b / 254 * data.span; }
  function shown(v) {
    if (v === null) { return data.words.absent; }
    var size = Math.abs(v);
    return (size >= 100 ? v.toFixed(0) : size >= 10 ? v.toFixed(1) : v.toFixed(2)) + (data.unit ? "\u00a0" + data.unit : "");
  }
  function colour(name) {
    var hex = getComputedStyle(root).getPropertyValue(name).trim();
    return [1, 3, 5].map(function (i) { return parseInt(hex.slice(i, i + 2), 16); });
  }
  function palette() {
    var stops = [colour("--heat-low"), colour("--heat-mid"), colour("--heat-high")], table = [];
    if (data.reverse) { stops.reverse(); }
    for (var b = 0; b < 255; b++) {
      var x = (data.origin + b / 254 * data.span - data.low) / (data.high - data.low || 1);
      x = Math.min(1, Math.max(0, x)) * 2;
      var i = x < 1 ? 0 : 1, f = x - i;
      table.push(stops[i].map(function (v, k) { return Math.round(v + f * (stops[i + 1][k] - v)); }));
    }
    return table;
  }

  var picture = document.createElement("canvas");
  picture.width = cases; picture.height = models;
  function paint() {
    var pen = picture.getContext("2d"), image = pen.createImageData(cases, models), table = palette();
    for (var m = 0; m < models; m++) {
      for (var i = 0; i < cases; i++) {
        var b = byte(m, order[i]), p = 4 * (m * cases + i);
        if (b === 255) { continue; }
        image.data[p] = table[b][0]; image.data[p + 1] = table[b][1]; image.data[p + 2] = table[b][2]; image.data[p + 3] = 255;
      }
    }
    pen.putImageData(image, 0, 0);
    draw();
  }
  function draw() {
    var room = canvas.parentNode.clientWidth, ratio = window.devicePixelRatio || 1;
    var cell = Math.max(2, Math.min(22, room / cases));
    width = cell * cases;
    canvas.style.width = width + "px"; canvas.style.height = models * row + "px";
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(models * row * ratio);
    var pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    for (var m = 0; m < models; m++) {
      pen.drawImage(picture, 0, m, cases, 1, 0, Math.round(m * row * ratio), canvas.width, Math.round((row - 1) * ratio));
    }
    if (at) {
      pen.strokeStyle = getComputedStyle(root).getPropertyValue("--ink"); pen.lineWidth = 1.5 * ratio;
      var left = at.i * cell * ratio, wide = Math.max(cell, 5) * ratio;
      pen.strokeRect(left - (wide - cell * ratio) / 2, at.m * row * ratio, wide, (row - 1) * ratio);
    }
  }
  function tell(m, i) {
    at = { m: Math.min(models - 1, Math.max(0, m)), i: Math.min(cases - 1, Math.max(0, i)) };
    var c = order[at.i], sum = 0, known = 0;
    for (var k = 0; k < models; k++) { var v = value(k, c); if (v !== null) { sum += v; known++; } }
    names.forEach(function (item, k) { item.classList.toggle("now", k === at.m); });
    reading.textContent = data.cases[c] + (data.labels[c] ? " · " + data.words.label + ": " + data.labels[c] : "") + " · " + data.models[at.m] + " · " +
      data.words.quantity + ": " + shown(value(at.m, c)) + " (" + data.words.mean + ": " + shown(known ? sum / known : null) + ")";
    draw();
  }
  function point(event) {
    var box = canvas.getBoundingClientRect();
    tell(Math.floor((event.clientY - box.top) / row), Math.floor((event.clientX - box.left) / (width / cases)));
  }
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("focus", function () { if (!at) { tell(0, 0); } });
  canvas.addEventListener("keydown", function (event) {
    var here = at || { m: 0, i: 0 }, step = event.shiftKey ? 10 : 1;
    var moves = { ArrowLeft: [0, -step], ArrowRight: [0, step], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -cases], End: [0, cases] };
    if (!moves[event.key]) { return; }
    event.preventDefault();
    tell(here.m + moves[event.key][0], here.i + moves[event.key][1]);
    var scroll = canvas.parentNode, x = at.i * width / cases;
    if (x < scroll.scrollLeft || x > scroll.scrollLeft + scroll.clientWidth - 10) { scroll.scrollLeft = x - scroll.clientWidth / 2; }
  });
  select.addEventListener("change", function () { order = data.orders[select.value]; at = null; paint(); });
  window.addEventListener("resize", draw);
  redraw = paint;
  paint();
})();
