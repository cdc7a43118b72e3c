"use strict";
// Searches the rollouts that the page carries. Every text goes into the page as text, never as markup.
(() => {
  const PAGE = 50;
  const RIGHT_FROM = 0.5;
  const byId = (id) => document.getElementById(id);
  const { runs, problems, rollouts } = JSON.parse(byId("rollout-data").textContent);
  const form = byId("filters");
  const list = byId("list");
  const more = byId("more");
  const fields = ["words", "run", "step", "task", "outcome", "problem", "order"].map(byId);
  let found = [];

  const OUTCOMES = {
    "": ["any", () => true],
    right: ["right", (r) => r.score !== null && r.score >= RIGHT_FROM],
    wrong: ["wrong", (r) => r.score !== null && r.score < RIGHT_FROM],
    unknown: ["score unknown", (r) => r.score === null],
    cut: ["cut off", (r) => r.cut],
    untrained: ["not trained on", (r) => r.advantage === null],
  };
  // What to order by; a value that is unknown comes last.
  const ORDERS = {
    "": ["as sampled", null, 1],
    late: ["latest step first", (r) => r.step, -1],
    best: ["best reward first", (r) => r.reward, -1],
    worst: ["worst reward first", (r) => r.reward, 1],
    advantage: ["highest advantage first", (r) => r.advantage, -1],
    disadvantage: ["lowest advantage first", (r) => r.advantage, 1],
    long: ["longest response first", (r) => r.tokens, -1],
    short: ["shortest response first", (r) => r.tokens, 1],
    prompt: ["longest prompt first", (r) => problems[r.problem].tokens, -1],
  };

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function count(number) {
    return number.toLocaleString("en");
  }

  function figure(value, digits) {
    return String(Number(value.toPrecision(digits)));
  }

  function signed(value) {
    return `${value > 0 ? "+" : ""}${value.toFixed(3)}`;
  }

  function addOptions(select, pairs) {
    for (const [value, text] of pairs) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function distinct(values) {
    return [...new Set(values)];
  }

  function haystack(r) {
    const p = problems[r.problem];
    r.text ??= [p.id, p.task, p.question, ...p.gold, r.response, r.answer ?? "", r.reason, r.source, r.status]
      .join("\n")
      .toLowerCase();
    return r.text;
  }

  function wordsAsked() {
    return byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function select() {
    const [words, run, step, task, outcome, problem, order] = fields.map((field) => field.value);
    const asked = wordsAsked();
    const isOutcome = OUTCOMES[outcome][1];
    const part = problem.trim();
    const isProblem = problems.some((p) => p.id === part) ? (id) => id === part : (id) => id.includes(part);
    found = rollouts.filter((r) => {
      const p = problems[r.problem];
      return (
        (run === "" || r.run === Number(run)) &&
        (step === "" || r.step === Number(step)) &&
        (task === "" || p.task === task) &&
        isProblem(p.id) &&
        isOutcome(r) &&
        asked.every((word) => haystack(r).includes(word))
      );
    });
    const [, key, sign] = ORDERS[order];
    if (key) {
      const last = (value) => (value === null ? 1 : 0);
      found.sort((a, b) => last(key(a)) - last(key(b)) || sign * (key(a) - key(b)));
    }
    list.replaceChildren();
    const filters = words || run || step || task || outcome || problem;
    byId("found").textContent = filters
      ? `${count(found.length)} of ${count(rollouts.length)} rollouts`
      : `${count(rollouts.length)} rollouts`;
    showMore();
  }

  function showMore() {
    const start = list.children.length;
    const next = found.slice(start, start + PAGE).map(row);
    list.append(...next);
    more.hidden = list.children.length >= found.length;
    more.textContent = `Show ${count(Math.min(PAGE, found.length - list.children.length))} more`;
    return next[0];
  }

  function row(r) {
    const p = problems[r.problem];
    const details = make("details", "rollout");
    const summary = make("summary");
    const score = r.score === null ? make("span", "score unknown", r.status || "unknown")
      : make("span", r.score >= RIGHT_FROM ? "score good" : "score bad", figure(r.score, 3));
    summary.append(make("span", "step", `step ${count(r.step)}`), score, make("span", "ask", p.question));
    summary.append(make("span", "read", r.answer ?? "no answer"), make("span", "task", p.task));
    if (runs.length > 1) summary.prepend(make("span", `key c${r.run % 6}`, ""));
    if (runs.length > 1) summary.firstChild.append(make("i"), make("span", "ink", runs[r.run]));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(...opened(r, p));
    });
    return details;
  }

  function opened(r, p) {
    const facts = make("dl", "verdict");
    const fact = (name, text, className) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", className, text));
      facts.append(pair);
      return pair.lastChild;
    };
    fact("read as the answer", r.answer ?? "none", "model");
    fact("accepted", p.gold.join(" | "), "model");
    fact("verdict", `${r.source}, ${r.status}${r.reason ? `: ${r.reason}` : ""}`, "model");
    fact("reward", r.reward === null ? "unknown" : figure(r.reward, 3));
    fact("advantage", r.advantage === null ? "not trained on" : signed(r.advantage));
    fact("tokens", `${count(p.tokens)} prompt, ${count(r.tokens)} response${r.cut ? ", cut off" : ""}`);
    const named = fact("problem", `${p.id}, answer ${r.sample}`, "model");
    const others = make("button", "link", "all answers to it");
    others.type = "button";
    others.addEventListener("click", () => {
      form.reset();
      byId("problem").value = p.id;
      select();
      byId("problem").focus();
    });
    named.append(" ", others);
    const text = (title, body, className) => {
      const block = make("pre", className);
      block.tabIndex = 0; // so that a long text can be scrolled from the keyboard
      block.setAttribute("aria-label", title);
      marked(block, body);
      return [make("h4", "", title), block];
    };
    const document_ = p.tail ? `${p.head}\n[...]\n${p.tail}` : p.head;
    return [facts, ...text("Question", p.question), ...text("Response", r.response), ...text("Document", document_, "quiet")];
  }

  // The text, with the words that were searched for in <mark>.
  function marked(node, text) {
    const lower = text.toLowerCase();
    const words = lower.length === text.length ? wordsAsked() : [];
    let at = 0;
    while (at < text.length) {
      const hits = words.map((word) => [lower.indexOf(word, at), word.length]).filter(([place]) => place >= 0);
      if (!hits.length) break;
      const [place, length] = hits.reduce((a, b) => (b[0] < a[0] ? b : a));
      node.append(text.slice(at, place), make("mark", "", text.slice(place, place + length)));
      at = place + length;
    }
    node.append(text.slice(at));
  }

  addOptions(byId("run"), [["", "all"], ...runs.map((name, i) => [i, name])]);
  byId("run-label").hidden = runs.length < 2;
  addOptions(byId("step"), [["", "all"], ...distinct(rollouts.map((r) => r.step)).sort((a, b) => a - b).map((s) => [s, count(s)])]);
  addOptions(byId("task"), [["", "all"], ...distinct(problems.map((p) => p.task)).sort().map((task) => [task, task])]);
  addOptions(byId("outcome"), Object.entries(OUTCOMES).map(([value, [name]]) => [value, name]));
  addOptions(byId("order"), Object.entries(ORDERS).map(([value, [name]]) => [value, name]));
  addOptions(byId("problems"), distinct(problems.map((p) => p.id)).map((id) => [id, undefined]));
  form.addEventListener("input", select);
  form.addEventListener("reset", () => setTimeout(select));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => showMore()?.querySelector("summary").focus());
  byId("browser").hidden = false;
  select();
})();
