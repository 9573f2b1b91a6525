// What the server tells of its last requests: promises against what was kept, tiers, queue. Asked again while the page is looked at.
import { headersOf } from "./asking.js";
import { byId, configurationWords, element, milliseconds, number, placed, shape, tierClass } from "./elements.js";
import { exactInterval } from "./interval.js";

const MOST = 100;
const FEWEST = 20; // places in the chart
const REFRESH_MS = 2000;
const CHART_HEIGHT = 176;
const HIGHEST = 1.5; // times the budget

export class Recent {
  constructor({ key }) {
    this.key = key;
    this.own = []; // what this page asked, where the server lists nothing
    this.listed = null;
    this.metrics = new Map();
    this.failures = 0;
    document.addEventListener("visibilitychange", () => this.refresh());
    addEventListener("resize", () => this.#show());
  }

  add(report) {
    this.own = [...this.own, report].slice(-MOST);
    return this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    if (document.visibilityState === "hidden") return;
    const headers = headersOf(this.key());
    const asked = await Promise.allSettled([
      fetch("paceline/recent", { headers }).then((answer) => (answer.ok ? answer.json() : null)),
      fetch("metrics", { headers }).then((answer) => (answer.ok ? answer.text() : "")),
    ]);
    const [listed, metrics] = asked.map((each) => (each.status === "fulfilled" ? each.value : null));
    this.failures = metrics === null ? this.failures + 1 : 0;
    const rows = Array.isArray(listed) ? listed : Array.isArray(listed?.requests) ? listed.requests : null;
    this.listed = rows?.filter((row) => row !== null && typeof row === "object") ?? null;
    this.metrics = parsedMetrics(metrics ?? "");
    this.#show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), REFRESH_MS * 2 ** Math.min(this.failures, 4));
  }

  #show() {
    const rows = (this.listed ?? this.own).slice(-MOST);
    const others = this.listed !== null;
    byId("recent-source").textContent = others ? `${rows.length} so far, whoever asked` : `${rows.length} asked by this page; this server lists none of others`;
    this.#kept(rows);
    mix(rows);
    this.#queue(rows);
    dots(rows);
    byId("rows").replaceChildren(...rows.map((row, index) => line(row, index + 1)).reverse());
  }

  #kept(rows) {
    const judged = rows.filter((row) => row.promised === true && typeof row.within_budget === "boolean");
    const kept = judged.filter((row) => row.within_budget).length;
    const since = this.#since();
    if (judged.length === 0) {
      byId("kept").textContent = "–";
      byId("kept-scale").replaceChildren();
      byId("kept-scale").setAttribute("aria-label", "no promises yet");
      const told = this.metrics.get("paceline:calibration_requests");
      const why = rows.findLast?.((row) => row.not_promised_because)?.not_promised_because;
      byId("kept-note").textContent = `Nothing was promised yet${why ? `: ${why}` : told === undefined ? "" : `: bounds are calibrated on ${told} requests so far`}.${since}`;
      return;
    }
    const share = kept / judged.length;
    const { low, high } = exactInterval(kept, judged.length);
    const target = 1 - (number(judged.at(-1).alpha) ?? 0.05);
    const from = Math.min(0.5, Math.floor(10 * low) / 10);
    const at = (value) => (value - from) / (1 - from);
    byId("kept").replaceChildren(`${kept} of ${judged.length} `, element("small", { text: percent(share) }));
    byId("kept-scale").replaceChildren(
      element("span", { class: "rail" }),
      placed(element("span", { class: "reach" }), { left: at(low), width: at(high) - at(low) }),
      placed(element("span", { class: "target" }), { left: at(target) }),
      placed(element("span", { class: "share" }), { left: at(share) }),
    );
    const said = `${percent(share)} kept, 95 % interval ${percent(low)} to ${percent(high)}, target ${percent(target)}`;
    byId("kept-scale").setAttribute("aria-label", said);
    const below = high < target ? " Below its target beyond what chance explains." : "";
    byId("kept-note").textContent = `95 % interval ${percent(low)} to ${percent(high)}; target ${percent(target)} (dashed).${below}${since}`;
  }

  #since() {
    const of = (outcome) =>
      [...this.metrics].filter(([name]) => name.startsWith("paceline:promises_total{") && name.includes(`outcome="${outcome}"`)).reduce((sum, [, count]) => sum + count, 0);
    const [kept, missed] = [of("kept"), of("missed")];
    return kept + missed === 0 ? "" : ` Since the server started: ${kept.toLocaleString("en")} kept, ${missed.toLocaleString("en")} missed.`;
  }

  #queue(rows) {
    const waiting = this.metrics.get("paceline:requests_unfinished");
    byId("queue").textContent = waiting === undefined ? "–" : waiting === 0 ? "empty" : `${waiting}`;
    const degraded = rows.filter((row) => row.degraded === true).length;
    const waits = rows.map((row) => number(row.stages?.queue)).filter((ms) => ms !== null).sort((one, two) => one - two);
    const calibrated = this.metrics.get("paceline:calibration_requests");
    byId("queue-note").textContent = [
      "Requests accepted and not yet answered.",
      waits.length === 0 ? "" : `Half of the last waited less than ${milliseconds(waits[Math.floor(waits.length / 2)])}, one in twenty more than ${milliseconds(waits[Math.floor(0.95 * waits.length)])}.`,
      rows.length === 0 ? "" : `Nothing fitted in ${degraded} of the last ${rows.length}.`,
      calibrated === undefined ? "" : `Bounds are calibrated on ${calibrated.toLocaleString("en")} requests.`,
    ]
      .filter((words) => words !== "")
      .join(" ");
  }
}

export function parsedMetrics(text) {
  const found = new Map();
  for (const row of text.split("\n")) {
    const cut = row.lastIndexOf(" ");
    const value = Number(row.slice(cut + 1));
    if (row.startsWith("paceline:") && cut > 0 && Number.isFinite(value)) found.set(row.slice(0, cut), value);
  }
  return found;
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 1 ? 1 : 0)}\u00a0%`;

function mix(rows) {
  const counts = new Map();
  for (const row of rows) {
    const tier = row.config?.tier ?? "no picture";
    counts.set(tier, (counts.get(tier) ?? 0) + 1);
  }
  const order = ["low", "medium", "high"];
  const rank = (tier) => (order.includes(tier) ? order.indexOf(tier) : order.length);
  const tiers = [...counts].sort(([one], [two]) => rank(one) - rank(two));
  const most = tiers.toSorted(([, one], [, two]) => two - one)[0];
  byId("mix").replaceChildren(...(most ? [`${most[0]} `, element("small", { text: `in ${most[1]} of ${rows.length}` })] : ["–"]));
  byId("mix-stack").replaceChildren(
    ...tiers.map(([tier, count]) => placed(element("span", { class: `seg ${tierClass(tier)}` }), { width: count / rows.length })),
  );
  byId("mix-stack").setAttribute("aria-label", tiers.map(([tier, count]) => `${tier} ${count}`).join(", ") || "no requests yet");
  byId("mix-legend").replaceChildren(
    ...tiers.map(([tier, count]) => element("li", {}, element("span", { class: `mark ${tierClass(tier)}`, "aria-hidden": "true" }), `${tier} ${count}`)),
  );
}

const measuredOf = (row) => number(row.budget_kind === "total" ? row.total_ms : row.ttft_ms);

function dots(rows) {
  const room = byId("dots");
  const width = Math.max(240, room.clientWidth);
  const [left, bottom] = [44, CHART_HEIGHT - 6];
  const y = (ratio) => bottom - (Math.min(ratio, HIGHEST) / HIGHEST) * (bottom - 12);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${CHART_HEIGHT}`, "aria-hidden": "true" });
  for (const ratio of [0, 0.5, 1, 1.5]) {
    svg.append(shape("line", { class: ratio === 1 ? "limit" : "axis", x1: left, x2: width, y1: y(ratio), y2: y(ratio) }));
    svg.append(shape("text", { x: left - 8, y: y(ratio) + 4, "text-anchor": "end" }, ratio === 1 ? "budget" : ratio === HIGHEST ? "1.5 ×" : ratio === 0 ? "0" : "½"));
  }
  const step = (width - left - 12) / Math.max(FEWEST, rows.length);
  let missed = 0;
  rows.forEach((row, index) => {
    const [measured, budget] = [measuredOf(row), number(row.budget_ms)];
    if (measured === null || budget === null || budget <= 0) return;
    const [x, at] = [left + 8 + (index + 0.5) * step, y(measured / budget)];
    const tier = tierClass(row.config?.tier);
    if (measured > budget) {
      missed += 1;
      svg.append(shape("path", { class: "cross", d: `M${x - 4} ${at - 4}l8 8m0 -8l-8 8` }));
    } else {
      svg.append(shape("circle", { class: `dot ${tier}${row.promised === true ? "" : " open"}`, cx: x, cy: at, r: width < 480 ? 2.5 : 3.5 }));
    }
  });
  room.replaceChildren(svg);
  room.setAttribute("aria-label", rows.length === 0 ? "no requests yet" : `of the last ${rows.length} requests ${missed} took longer than their budgets`);
}

function line(row, count) {
  const yes = (value) => (value === true ? "yes" : value === false ? "no" : "–");
  const cells = [
    String(number(row.number) ?? count),
    configurationWords(row.config ?? {}).join(", "),
    number(row.image_tokens)?.toLocaleString("en") ?? "–",
    ...[row.budget_ms, row.bound_ms, measuredOf(row)].map((ms) => milliseconds(ms).replace(/ ms$/, "")),
    yes(row.within_budget),
    yes(row.promised),
  ];
  return element("tr", {}, ...cells.map((text) => element("td", { text })));
}
