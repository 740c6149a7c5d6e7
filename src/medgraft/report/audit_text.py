"""Every string of the audit page, English and Chinese side by side; ``text.STRINGS`` takes them in."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

AUDIT: dict[str, tuple[str, str]] = {
    # --- frame of the page ---
    "audit_title": ("{name}: what to know before you train", "{name}：训练前须知"),
    "audit_kicker": ("Data audit", "数据审查"),
    "audit_skip": ("Skip to the findings", "跳到审查结果"),
    "audit_against": ("against {name} as external test set", "以 {name} 为外部测试集"),
    "audit_nav_findings": ("Findings", "审查结果"),
    "audit_nav_notes": ("Notes", "提示"),
    "audit_nav_sheet": ("Contact sheet", "图像一览"),
    "audit_nav_counts": ("Counts", "数量"),
    "audit_nav_facts": ("Acquisition", "采集条件"),
    "audit_nav_how": ("How it was checked", "审查方法"),
    "audit_kind_image": ("images", "图像"),
    "audit_kind_video": ("videos", "视频"),
    "audit_kind_volume": ("volumes", "三维影像"),
    "audit_people_unknown_short": ("patients unknown", "患者身份未知"),
    "audit_footer": (
        "Made by medgraft {version} from audit.json. This file holds everything it shows and asks nothing of a network.",
        "由 medgraft {version} 根据 audit.json 生成。所有内容均在本文件中，不访问任何网络。",
    ),
    # --- the answer ---
    "audit_question_need": ("Does something need you?", "有需要处理的问题吗？"),
    "audit_question_people": ("Is one person in two parts?", "同一人是否出现在两部分？"),
    "audit_question_pictures": ("Is one picture there twice?", "是否有重复图像？"),
    "audit_question_labels": ("Can the label be told without disease?", "不看病变能否猜出标签？"),
    "audit_need": ("{n} findings need you: {leaks} and {checks}.", "有 {n} 项需要您处理：{leaks}、{checks}。"),
    "audit_need_one": ("1 finding needs you.", "有 1 项需要您处理。"),
    "audit_need_none": ("Nothing found that needs you.", "未发现需要处理的问题。"),
    "audit_leaks": ("{n} leaks that would make every result too good", "{n} 项泄漏（会使所有结果虚高）"),
    "audit_leaks_one": ("1 leak that would make every result too good", "1 项泄漏（会使所有结果虚高）"),
    "audit_leaks_zero": ("no leak", "无泄漏"),
    "audit_checks": ("{n} to look at", "{n} 项需查看"),
    "audit_checks_one": ("1 to look at", "1 项需查看"),
    "audit_checks_zero": ("nothing more to look at", "无其他需查看项"),
    "audit_people_parts": ("No patient stands in two roles of {parts}.", "{parts} 中没有患者同时担任两种角色。"),
    "audit_people_no_parts": (
        "No parts were given: medgraft audit DATASET run=RUN checks the folds of a run. Every split that medgraft makes keeps a patient in one role.",
        "未指定划分。medgraft audit DATASET run=RUN 可审查某次运行的各折；medgraft 生成的划分始终让同一患者只担任一种角色。",
    ),
    "audit_people_unknown": (
        "Cannot be known: the data set does not say who is who.",
        "无法得知：数据集未注明患者身份。",
    ),
    "audit_people_yes": ("Yes: {n}.", "是：{n}。"),
    "audit_pictures_none": ("No two cases show the same picture.", "没有两个病例显示同一图像。"),
    "audit_pictures_none_exact": (
        "No two cases hold the same pixels (near-duplicates were not looked for).",
        "没有两个病例的像素相同（未查找近似重复）。",
    ),
    "audit_pictures": (
        "{two} of different patients; {one} within one patient.",
        "不同患者之间：{two}；同一患者之内：{one}。",
    ),
    "audit_facts_auc": (
        "Size, brightness and the other acquisition facts together tell {target} with an AUC of {auc} ({low} to {high}); 0.5 would be chance.",
        "仅凭尺寸、亮度等采集条件判断 {target} 的 AUC 为 {auc}（{low} 至 {high}）；0.5 为随机水平。",
    ),
    "audit_facts_strong": (" Strongest: {facts}.", "最强者：{facts}。"),
    "audit_facts_unknown": ("Too few patients to say, or no class to tell.", "患者过少或没有类别，无法判断。"),
    "audit_facts_none": ("All acquisition facts are the same everywhere.", "所有采集条件均相同。"),
    # --- findings ---
    "audit_leak": ("Leak", "泄漏"),
    "audit_check": ("Look", "需查看"),
    "audit_note": ("Note", "提示"),
    "audit_todo": ("What to do", "如何处理"),
    "audit_findings_none": (
        "Nothing was found that needs you. What was looked for stands at the end.",
        "未发现需要处理的问题。审查内容见文末。",
    ),
    "audit_notes_title": ("Good to know", "供参考"),
    "audit_pairs": ("{n} pairs", "{n} 对"),
    "audit_pairs_one": ("1 pair", "1 对"),
    "audit_pairs_zero": ("no pair", "无"),
    "audit_more": (
        "{shown} of {n} are shown; audit.json lists up to {listed}.",
        "显示 {n} 对中的 {shown} 对；audit.json 最多列出 {listed} 对。",
    ),
    "audit_across": (
        "{n} of them stand in two roles at once, so a model is tested on what it has learned from.",
        "其中 {n} 对同时处于两种角色，模型会在学习过的图像上受测。",
    ),
    "audit_across_one": (
        "One of them stands in two roles at once, so a model is tested on what it has learned from.",
        "其中 1 对同时处于两种角色，模型会在学习过的图像上受测。",
    ),
    "audit_across_zero": (
        "In the parts that were checked no pair is split between two roles; any other split may do so.",
        "在所审查的划分中没有被分到两种角色的图像对；换一种划分则可能发生。",
    ),
    "audit_labels_differ": (
        "{n} of them carry different labels: at least one must be wrong.",
        "其中 {n} 对标签不同：至少一个标签有误。",
    ),
    "audit_labels_differ_one": (
        "One of them carries different labels: at least one must be wrong.",
        "其中 1 对标签不同：至少一个标签有误。",
    ),
    "audit_unknown_people": (
        "Patients are not known here, so every case counts as a person of its own.",
        "此数据集患者身份未知，每个病例均视为一人。",
    ),
    "audit_same_two_patients": ("The same picture stands under two patients: {n}", "同一图像属于两名患者：{n}"),
    "audit_same_two_patients_about": (
        "These cases hold the same pixels, but the table calls them different people. Either one person has two names, or a file was copied.",
        "这些病例的像素完全相同，但表中属于不同的人：要么同一人有两个名字，要么文件被复制。",
    ),
    "audit_same_two_patients_todo": (
        "Find out whose picture it is. If it is one person, give both rows the same patient; if a file was copied, take one row out. Then scan again.",
        "查明图像属于谁。若为同一人，请在两行填同一患者；若文件被复制，请删去一行，然后重新扫描。",
    ),
    "audit_near_two_patients": (
        "Almost the same picture stands under two patients: {n}",
        "几乎相同的图像属于两名患者：{n}",
    ),
    "audit_near_two_patients_about": (
        "Apart from compression, size, brightness or a cut margin these are one picture.",
        "除压缩、尺寸、亮度或裁边外，这些图像相同。",
    ),
    "audit_near_two_patients_todo": (
        "Look at each pair. If it is one picture, treat it as above: the same patient for both, or one row less. If you see two people, leave it as it is.",
        "逐对查看。若为同一图像，请将两行归于同一患者或删去一行；若确为两人，请保持不变。",
    ),
    "audit_mirrored_two_patients": (
        "A mirrored picture stands under another patient: {n}",
        "镜像图像属于另一名患者：{n}",
    ),
    "audit_mirrored_two_patients_about": (
        "One is the other mirrored left to right. Mirroring is a usual way to hide or to multiply cases; left and right organs of one person can look like it too.",
        "二者左右镜像。镜像常被用来掩饰或增加病例；同一人的左右器官也可能如此。",
    ),
    "audit_mirrored_two_patients_todo": (
        "Look at each pair: letters and the heart tell whether it is the same picture. If it is, give both the same patient or take one out.",
        "逐对查看：文字与心脏位置可判断是否为同一图像。若是，请归于同一患者或删去一行。",
    ),
    "audit_same_two_labels": ("The same picture carries two labels: {n}", "同一图像有两个标签：{n}"),
    "audit_same_two_labels_about": (
        "These cases of one patient hold the same pixels with different labels.",
        "同一患者的这些病例像素相同而标签不同。",
    ),
    "audit_same_two_labels_todo": (
        "Ask who labelled them, keep the right row and take the other out.",
        "询问标注者，保留正确的一行，删去另一行。",
    ),
    "audit_same_one_patient": ("The same picture is there twice within one patient: {n}", "同一患者内有重复图像：{n}"),
    "audit_same_one_patient_about": (
        "No leak, as a patient stays in one role, but these cases count double.",
        "同一患者只担任一种角色，故不构成泄漏，但这些病例被重复计数。",
    ),
    "audit_same_one_patient_todo": (
        "Take one row of each pair out, unless it is meant to count double.",
        "若非有意重复计数，请每对删去一行。",
    ),
    "audit_near_one_patient": (
        "Almost the same picture is there twice within one patient: {n}",
        "同一患者内有近乎相同的图像：{n}",
    ),
    "audit_near_one_patient_about": (
        "Two exports or two moments of one recording. No leak, as a patient stays in one role.",
        "同一记录的两次导出或两个时刻。同一患者只担任一种角色，故不构成泄漏。",
    ),
    "audit_near_one_patient_todo": (
        "Nothing, unless they are meant to be independent.",
        "若无需相互独立，则不必处理。",
    ),
    "audit_patient_two_roles": ("One patient in two roles of {part}: {n}", "{part} 中同一患者担任两种角色：{n}"),
    "audit_patient_two_roles_about": (
        "A model then is tested on people it has learned from, and every result is too good.",
        "模型会在学习过的人身上受测，所有结果都会虚高。",
    ),
    "audit_patient_two_roles_todo": (
        "Give every patient one role in that column, or let medgraft split by patient.",
        "让每名患者只担任一种角色，或由 medgraft 按患者划分。",
    ),
    "audit_patient_two_sets": ("One patient in both data sets: {n}", "同一患者出现在两个数据集：{n}"),
    "audit_patient_two_sets_about": (
        "An external test set that holds patients of the training set is not external.",
        "外部测试集中含有训练集患者，便不再是外部测试。",
    ),
    "audit_patient_two_sets_todo": (
        "Take these patients out of one of the two. If they are other people with the same number, give them other ids.",
        "请从其中一个数据集中删去这些患者；若只是编号相同的不同人，请改用其他编号。",
    ),
    "audit_study_two_patients": ("One study under two patients: {n}", "同一检查属于两名患者：{n}"),
    "audit_study_two_patients_about": (
        "An examination has one patient. One of the names is wrong, or study numbers repeat between sites.",
        "一次检查只有一名患者。要么姓名有误，要么各中心的检查编号重复。",
    ),
    "audit_study_two_patients_todo": (
        "Correct the patient, or put the site in front of the study number.",
        "更正患者，或在检查编号前加上中心名称。",
    ),
    "audit_patient_two_labels": (
        "One {level} with two values of {target}: {n}",
        "同一{level}有两个 {target} 取值：{n}",
    ),
    "audit_patient_two_labels_about": (
        "The data set says that labels belong to the {level}, but these have several.",
        "数据集称标签属于{level}，但这些{level}有多个标签。",
    ),
    "audit_patient_two_labels_todo": (
        "Correct the labels, or scan with label_level=case.",
        "更正标签，或以 label_level=case 扫描。",
    ),
    "audit_level_patient": ("patient", "患者"),
    "audit_level_study": ("study", "检查"),
    "audit_patients_unknown": ("Patients are not known: {n}", "患者身份未知：{n}"),
    "audit_patients_unknown_about": (
        "The data set was scanned with patient=none. One person may stand in training and test, and intervals are too narrow.",
        "扫描时使用了 patient=none。同一人可能同时出现在训练与测试中，置信区间也会偏窄。",
    ),
    "audit_patients_unknown_todo": (
        "If anyone knows which cases belong together, add a column and scan with patient=COLUMN.",
        "若有人知道哪些病例属于同一人，请增加一列并以 patient=列名 扫描。",
    ),
    "audit_blank": ("Pictures that show nothing: {n}", "空白图像：{n}"),
    "audit_blank_about": ("Their grey values hardly differ anywhere.", "其灰度几乎处处相同。"),
    "audit_blank_todo": ("Look at the files; take them out if they are empty.", "查看这些文件；若为空白请删去。"),
    "audit_two_labels_rejected": (
        "Cases with two labels were left out by the scan: {n}",
        "扫描时排除了有两个标签的病例：{n}",
    ),
    "audit_two_labels_rejected_about": (
        "Their rows contradict each other; they stand in rejects.csv.",
        "其各行相互矛盾，见 rejects.csv。",
    ),
    "audit_two_labels_rejected_todo": (
        "Keep one row for each in the labels table and scan again.",
        "在标签表中每例只留一行，然后重新扫描。",
    ),
    "audit_search_limited": ("Pairs that look alike but were not fitted: {n}", "相似但未逐一比对的图像对：{n}"),
    "audit_search_limited_about": (
        "There were more candidates than are fitted; the closest were. Copies with margins cut off by some per cent may be missed.",
        "候选对过多，只比对了最相似的；裁边超过百分之几的副本可能遗漏。",
    ),
    "audit_search_limited_todo": (
        "Nothing, if all copies found are explained.",
        "若已找到的副本均有解释，则不必处理。",
    ),
    "audit_fact_strong": ("{facts}: strongly tied to {target}", "{facts}：与 {target} 强相关"),
    "audit_fact_weak": ("{facts}: not evenly spread over {target}", "{facts}：在 {target} 中分布不均"),
    "audit_fact_about": (
        "A model can use this instead of the disease.",
        "模型可能利用这一点而非病变。",
    ),
    "audit_fact_line": ("{fact}: {shown} ({strength})", "{fact}：{shown}（{strength}）"),
    "audit_fact_strength": ("strength {strength}, p\u00a0{p}", "强度 {strength}，p\u00a0{p}"),
    "audit_fact_todo": (
        "Balance it (select cases, or add those that lack), or report results within each of its values; at least say it beside the result.",
        "使其平衡（挑选或补充病例），或按其取值分别报告结果；至少应在结果旁注明。",
    ),
    "audit_facts_together": (
        "Acquisition facts alone tell {target}: AUC {auc} ({low} to {high})",
        "仅凭采集条件即可判断 {target}：AUC {auc}（{low} 至 {high}）",
    ),
    "audit_facts_together_about": (
        "A model that never sees the picture, only {facts}, does that well on patients it has not met. A network must be clearly better than this to prove anything.",
        "一个从不看图、只知道{facts}的模型，在未见过的患者上即达到此水平。网络必须明显更好才有意义。",
    ),
    "audit_facts_together_todo": (
        "Compare every model with this number, not with 0.5. See below which facts carry it.",
        "应将每个模型与此数相比，而非与 0.5 相比。具体由哪些条件造成见下。",
    ),
    # --- pairs ---
    "audit_identical": ("identical pixels", "像素完全相同"),
    "audit_rescaled": ("identical pixels, other value scale", "像素相同，数值尺度不同"),
    "audit_copy": ("likeness {likeness}", "相似度 {likeness}"),
    "audit_cropped": (
        "likeness {likeness} with up to {margin} of a side cut off",
        "相似度 {likeness}，边缘裁去至多 {margin}",
    ),
    "audit_mirrored": ("mirrored, {relation}", "镜像，{relation}"),
    "audit_frames": ("frames {a} and {b}", "第 {a} 帧与第 {b} 帧"),
    "audit_role_across": ("{part}: {a} and {b}", "{part}：{a} 与 {b}"),
    "audit_patient": ("patient", "患者"),
    "audit_label": ("label", "标签"),
    "audit_hidden": ("hidden: text not checked", "已隐藏：文字未检查"),
    "audit_hidden_note": (
        "Some pictures are hidden, for their pixels were not searched for names yet: scan with text=list or text=black. Public data: identity=keep.",
        "部分图像被隐藏，因为尚未检查其像素中的姓名：请以 text=list 或 text=black 扫描；公开数据可用 identity=keep。",
    ),
    "audit_no_image": ("image not at hand", "图像不可用"),
    "audit_alt": ("Case {case}", "病例 {case}"),
    # --- contact sheet ---
    "audit_sheet_title": ("Contact sheet", "图像一览"),
    "audit_sheet_note": (
        "A few cases of each class and role, chosen at random, one a patient as far as there are enough.",
        "每个类别与角色随机抽取若干病例，尽量每名患者一例。",
    ),
    "audit_sheet_of": ("{shown} of {n}", "{n} 例中的 {shown} 例"),
    "audit_sheet_all": ("all cases", "所有病例"),
    "audit_sheet_no_label": ("no label", "无标签"),
    # --- counts ---
    "audit_counts_title": ("How many of what", "数量"),
    "audit_col_class": ("Class", "类别"),
    "audit_col_cases": ("Cases", "病例"),
    "audit_col_patients": ("Patients", "患者"),
    "audit_missing": ("no value", "无取值"),
    "audit_quantity": (
        "{low} to {high}, half of them between {q1} and {q3}, median {median}",
        "{low} 至 {high}，中间一半在 {q1} 与 {q3} 之间，中位数 {median}",
    ),
    "audit_counts_none": ("The data set has no label column.", "数据集没有标签列。"),
    # --- facts ---
    "audit_facts_title": ("How the pictures came to be", "图像如何产生"),
    "audit_facts_note": (
        "Strength is 0 where a fact has nothing to do with the label and 1 where it tells it: Cramér's V for categories, rank correlation ratio for numbers, corrected for chance. p is by permutation of whole patients, not corrected for the number of facts.",
        "强度为 0 表示该条件与标签无关，为 1 表示可由其得知标签：分类用 Cramér V，数值用秩相关比，均已校正随机影响。p 值由整名患者的置换得出，未按条件个数校正。",
    ),
    "audit_col_fact": ("Fact", "条件"),
    "audit_col_values": ("What there is", "取值"),
    "audit_col_strength": ("Goes with {target}", "与 {target} 的关联"),
    "audit_constant": ("the same everywhere: {value}", "处处相同：{value}"),
    "audit_numbers": ("{low} to {high}, median {median}", "{low} 至 {high}，中位数 {median}"),
    "audit_unknown_of": ("{n} unknown", "{n} 例未知"),
    "audit_others": ("{n} more", "另有 {n} 种"),
    "audit_word_none": ("no sign", "无迹象"),
    "audit_word_open": ("perhaps", "或许"),
    "audit_word_weak": ("weakly", "弱"),
    "audit_word_some": ("somewhat", "中等"),
    "audit_word_strong": ("strongly", "强"),
    "audit_shares": ("{value} in {list}", "{value}：{list}"),
    "audit_share_of": ("{share} of {label}", "{label} 中占 {share}"),
    "audit_medians": ("median {list}", "中位数：{list}"),
    "audit_median_of": ("{value} ({label})", "{value}（{label}）"),
    "audit_half_low": ("lower half", "低半部分"),
    "audit_half_high": ("upper half", "高半部分"),
    "audit_fact_site": ("site", "中心"),
    "audit_fact_device": ("device", "设备"),
    "audit_fact_day": ("day of examination (days after the first)", "检查日（距首例天数）"),
    "audit_fact_kind": ("kind", "类型"),
    "audit_fact_height": ("height (pixels)", "高度（像素）"),
    "audit_fact_width": ("width (pixels)", "宽度（像素）"),
    "audit_fact_frames": ("number of frames", "帧数"),
    "audit_fact_slices": ("number of slices", "层数"),
    "audit_fact_pixel spacing": ("pixel spacing (mm)", "像素间距（mm）"),
    "audit_fact_slice spacing": ("slice spacing (mm)", "层间距（mm）"),
    "audit_fact_frame time": ("time between frames (s)", "帧间隔（s）"),
    "audit_fact_darkest": ("darkest value", "最暗值"),
    "audit_fact_brightest": ("brightest value", "最亮值"),
    # --- how ---
    "audit_how_title": ("How it was checked", "审查方法"),
    "audit_how_same": (
        "Same pixels: stored arrays with one hash, and values that are equal but for scale and offset.",
        "像素相同：存储数组的哈希一致，或数值仅尺度与偏移不同。",
    ),
    "audit_how_near": (
        "Almost the same: {n} pictures (images, up to 16 frames of a video, whole volumes) were compared with all others in the slow frequencies of the cosine transform, without what all cases share; the closest were fitted with margins cut off. Likeness {alike} counts as one picture. On the clean real sets that this was measured on no two patients reached it.",
        "近乎相同：{n} 幅图像（图像、视频至多 16 帧、整个三维影像）在余弦变换低频上两两比较，并去除所有病例的共性；最接近者再允许裁边拟合。相似度达 {alike} 视为同一图像。在用于测定的真实无重复数据上，没有两名患者达到该值。",
    ),
    "audit_how_no_near": ("Almost the same: not looked for (near=false).", "近乎相同：未查找（near=false）。"),
    "audit_how_parts": ("Roles: {parts}.", "角色：{parts}。"),
    "audit_how_no_parts": (
        "Roles: the data set has no split column, and no run was given.",
        "角色：数据集无划分列，也未指定运行。",
    ),
    "audit_how_not": (
        "Not looked for: pictures turned by more than a degree or framed anew, text in the pixels, labels in file names, other pictures of the same person.",
        "未查找：旋转超过一度或加了边框的图像、像素中的文字、文件名中的标签、同一人的其他图像。",
    ),
    "audit_how_time": (
        "{seconds} s; everything stands in audit.json for machines.",
        "用时 {seconds} 秒；全部结果见 audit.json，可供程序读取。",
    ),
}
