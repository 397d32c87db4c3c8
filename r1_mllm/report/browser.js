// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const root = document.getElementById("browser");
  const PER_PAGE = 8;
  const state = { run: "", task: "", from: "", to: "", least: "", most: "", verdict: "", words: "", page: 0 };

  function make(tag, attributes, ...children) {
    const svg = ["svg", "image", "rect"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    for (const child of children) node.append(child);
    return node;
  }

  function number(value) {
    if (value === null || value === undefined) return "\u2013";
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
  }

  function shown(value) {
    if (value === null || value === undefined) return "\u2013";
    if (isBox(value)) return "[" + value.map((edge) => edge.toFixed(0)).join(", ") + "]";
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  }

  function isBox(value) {
    return Array.isArray(value) && value.length === 4 && value.every((edge) => typeof edge === "number");
  }

  function boxesOf(value) {
    if (isBox(value)) return [value];
    return Array.isArray(value) ? value.map((item) => item && item.bbox_2d).filter(isBox) : [];
  }

  function keeps(row) {
    if (state.least !== "" && !(row.reward >= Number(state.least))) return false;
    if (state.most !== "" && !(row.reward !== null && row.reward <= Number(state.most))) return false;
    if (state.verdict === "right" && row.correct !== true) return false;
    if (state.verdict === "wrong" && row.correct !== false) return false;
    if (state.verdict === "cut" && !row.cut) return false;
    return !state.words || row.text.toLowerCase().includes(state.words.toLowerCase());
  }

  function chosen() {
    const found = [];
    for (const group of data.groups) {
      if (state.run !== "" && group.run !== Number(state.run)) continue;
      if (state.task !== "" && group.task !== state.task) continue;
      if (state.from !== "" && group.step < Number(state.from)) continue;
      if (state.to !== "" && group.step > Number(state.to)) continue;
      const rows = group.rows.filter(keeps);
      if (rows.length) found.push([group, rows]);
    }
    return found;
  }

  function picture(group, rows) {
    if (group.picture === null) return make("p", { class: "none" }, "no picture");
    const [width, height] = data.sizes[group.picture];
    const line = Math.max(width, height) / 110;
    const svg = make("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.append(make("image", { href: data.pictures[group.picture], width, height }));
    const draw = (value, kind) => {
      for (const [x1, y1, x2, y2] of boxesOf(value)) {
        const place = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
        svg.append(make("rect", { ...place, class: "under", fill: "none", "stroke-width": 1.7 * line }));
        svg.append(make("rect", { ...place, class: kind, fill: "none", "stroke-width": line }));
      }
    };
    rows.forEach((row) => draw(row.read, "after"));
    draw(group.truth, "truth");
    return svg;
  }

  function card(group, rows) {
    const head = [`step ${group.step}`, group.task, group.id, `expected ${shown(group.truth)}`];
    if (data.runs.length > 1) head.unshift(data.runs[group.run]);
    const list = make("div", { class: "answers" });
    for (const row of rows) {
      const parts = Object.entries(row.parts).map(([name, value]) => `${name} ${number(value)}`).join(", ");
      const verdict = row.correct === true ? "right" : row.correct === false ? "wrong" : "";
      const facts = [`reward ${number(row.reward)}`, parts && `(${parts})`, `advantage ${number(row.advantage)}`,
        `read ${shown(row.read)}`, row.tokens && `${row.tokens} tokens`, row.cut && "cut at the limit"];
      list.append(make("div", { class: "answer" },
        make("p", { class: `quiet ${verdict}` }, facts.filter(Boolean).join("  \u00b7  ")),
        make("pre", {}, row.text)));
    }
    const prompt = make("details", {}, make("summary", {}, group.question || "prompt"), make("pre", {}, group.prompt));
    const legend = boxesOf(group.truth).length
      ? make("p", { class: "legend" },
        make("span", {}, make("i", { style: "background:var(--truth)" }), "true"),
        make("span", {}, make("i", { style: "background:var(--after)" }), "predicted"))
      : "";
    return make("div", { class: "card" }, make("h3", {}, head.filter(Boolean).join("  \u00b7  ")), prompt,
      make("div", { class: "group" }, make("div", {}, picture(group, rows), legend), list));
  }

  const results = make("div", { class: "results" });
  const status = make("span", { class: "quiet" });

  function turn(by) {
    const button = make("button", { type: "button" }, by < 0 ? "earlier" : "later");
    button.addEventListener("click", () => { state.page += by; update(); });
    return button;
  }
  const back = turn(-1), forth = turn(1);

  function update() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const part = found.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
    const cards = part.map(([group, rows]) => card(group, rows));
    results.replaceChildren(...(cards.length ? cards : [make("p", { class: "none" }, "no completion fits these filters")]));
    const count = found.reduce((sum, [, rows]) => sum + rows.length, 0);
    status.textContent = ` ${count} completions of ${found.length} prompts, page ${state.page + 1} of ${pages} `;
    back.disabled = state.page === 0;
    forth.disabled = state.page === pages - 1;
  }

  function control(title, name, node) {
    node.addEventListener("input", () => { state[name] = node.value; state.page = 0; update(); });
    node.setAttribute("name", name);
    return make("label", {}, title, node);
  }

  function select(pairs) {
    return make("select", {}, ...pairs.map(([value, text]) => make("option", { value }, text)));
  }

  const tasks = [...new Set(data.groups.map((group) => group.task))].sort();
  const steps = [...new Set(data.groups.map((group) => group.step))].sort((a, b) => a - b);
  const numeric = (name, hint) => make("input", { type: "number", step: "any", placeholder: hint, "aria-label": name });
  const controls = make("form", { class: "controls" });
  if (data.runs.length > 1) {
    controls.append(control("run ", "run", select([["", "all"], ...data.runs.map((run, i) => [String(i), run])])));
  }
  controls.append(
    control("step ", "from", numeric("first step", String(steps[0]))),
    control("to ", "to", numeric("last step", String(steps[steps.length - 1]))),
    control("task ", "task", select([["", "all"], ...tasks.map((task) => [task, task || "(none)"])])),
    control("reward ", "least", numeric("least reward", "least")),
    control("to ", "most", numeric("most reward", "most")),
    control("answers ", "verdict", select([["", "all"], ["right", "right"], ["wrong", "wrong"], ["cut", "cut"]])),
    control("words ", "words", make("input", { type: "search", "aria-label": "words in the completion" })));
  controls.addEventListener("submit", (event) => event.preventDefault());
  root.append(controls, make("p", { class: "pages" }, back, status, forth), results);
  update();
})();
