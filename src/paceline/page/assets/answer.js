// One answer: its text as it streams, what was promised at the first byte, and what was measured at the end.
import { configurationOf, configurationWords, element, milliseconds, number, placed, tierClass } from "./elements.js";

const STAGE_WORDS = { fetch: "fetching pictures", queue: "queue", preprocess: "preprocessing", vision: "vision encoder", prefill: "prefill" };

export class AnswerCard {
  constructor(budgetMs, { onAskFor }) {
    this.budgetMs = budgetMs;
    this.onAskFor = onAskFor;
    this.title = element("h3", { text: `Budget ${milliseconds(budgetMs)}` });
    this.verdict = element("p", { class: "verdict", text: "waiting …" });
    this.text = element("p", { class: "text", "aria-busy": "true" });
    this.chips = element("ul", { class: "chips", "aria-label": "What ran" });
    this.parts = element("div", { class: "parts" });
    this.root = element(
      "article",
      { class: "card answer running" },
      element("div", { class: "answer-head" }, this.title, this.verdict),
      this.text,
      this.chips,
      this.parts,
    );
    this.promised = { config: null, boundMs: null };
  }

  told({ promised, token }) {
    if (promised) {
      this.promised = promised;
      this.verdict.textContent = "answering …";
      if (promised.config) this.#showConfiguration(configurationOf(promised.config), null);
    }
    if (token) this.text.append(token);
  }

  // returns a sentence for those who do not see the page
  finished({ report, timing, clientMs, wholeMs, usage }) {
    this.#end();
    if (this.text.textContent === "") this.text.append(element("span", { class: "small", text: "(an answer without text)" }));
    if (report === null || typeof report !== "object") {
      this.verdict.textContent = "no budget was kept or missed";
      this.#chip(`first text after ${milliseconds(clientMs)} by this browser`);
      this.parts.append(
        element("p", { class: "small", text: "This server took no notice of the budget: its answer says nothing of one." }),
      );
      return "Answered; this server took no notice of the budget.";
    }
    const measured = number(report.budget_kind === "total" ? report.total_ms : report.ttft_ms);
    const kept = report.within_budget;
    this.root.classList.add(kept === true ? "kept" : kept === false ? "missed" : "unknown");
    const word = kept === true ? "✓ kept" : kept === false ? "✕ missed" : "not measured";
    this.verdict.replaceChildren(...(measured === null ? [] : [element("b", { text: milliseconds(measured) }), " "]), word);
    this.#showConfiguration(report.config ?? {}, report.image_tokens);
    if (report.degraded) this.#chip("nothing fits: the smallest bound", "marked");
    if (report.promised) this.#chip(`promised, ${Math.round(100 * (1 - report.alpha))} of 100 keep it`);
    else this.#chip("not promised", "marked");
    this.parts.replaceChildren(
      ...(report.not_promised_because
        ? [element("p", { class: "small", text: `Not promised: ${report.not_promised_because}.` })]
        : []),
      this.#bar(report, measured),
      this.#waterfall(report, timing),
      element("p", {
        class: "small",
        text: `By this browser's clock: first text after ${milliseconds(clientMs)}, all of it after ${milliseconds(wholeMs)}${
          number(usage?.completion_tokens) === null ? "" : `, ${usage.completion_tokens} tokens`
        }.`,
      }),
    );
    const words = configurationWords(report.config ?? {}).join(", ");
    return `${kept === false ? "Missed" : "Kept"} ${milliseconds(this.budgetMs)}: ${milliseconds(measured)} to the first token, with ${words}.`;
  }

  failed(error) {
    this.#end();
    this.root.classList.add("failed");
    const refused = error.name === "AbortError" ? "stopped" : error.status ? `refused (${error.status})` : "no answer";
    this.verdict.textContent = `✕ ${refused}`;
    const said = error.name === "AbortError" ? "You stopped this answer." : error.message;
    this.parts.append(element("p", { class: "small", text: said }));
    if (error.leastBudgetMs) {
      const least = Math.ceil(error.leastBudgetMs);
      const again = element("button", { type: "button", text: `Ask within ${milliseconds(least)}` });
      again.addEventListener("click", () => this.onAskFor(least));
      this.parts.append(again);
    }
    return `No answer within ${milliseconds(this.budgetMs)}: ${said}`;
  }

  #end() {
    this.root.classList.remove("running");
    this.text.removeAttribute("aria-busy");
  }

  #chip(words, kind) {
    this.chips.append(element("li", { class: kind, text: words }));
  }

  #showConfiguration(config, imageTokens) {
    this.config = config;
    const [tier, ...others] = configurationWords(config);
    this.chips.replaceChildren(
      element("li", {}, element("span", { class: `mark ${tierClass(config.tier)}`, "aria-hidden": "true" }), tier),
      ...others.map((words) => element("li", { text: words })),
    );
    if (number(imageTokens) !== null) this.#chip(`${imageTokens.toLocaleString("en")} image tokens`);
  }

  #bar(report, measured) {
    const bound = number(report.bound_ms);
    const most = 1.15 * Math.max(measured ?? 0, bound ?? 0, number(report.expected_ms) ?? 0, 0.001);
    const end = this.budgetMs <= 4 * most ? Math.max(most, 1.05 * this.budgetMs) : most;
    const track = element("div", { class: "track", role: "img" });
    const legend = element("ul", { class: "legend" });
    const add = (kind, ms, words) => {
      if (ms <= end) track.append(placed(element("span", { class: kind }), kind === "measured" ? { width: ms / end } : { left: ms / end }));
      legend.append(element("li", {}, element("span", { class: `mark ${kind}`, "aria-hidden": "true" }), words));
      return words;
    };
    const said = [];
    if (measured !== null) said.push(add("measured", measured, `measured ${milliseconds(measured)}`));
    if (bound !== null) said.push(add("bound", bound, `bound ${milliseconds(bound)}`));
    else legend.append(element("li", { class: "small", text: "no bound yet" }));
    said.push(add("limit", this.budgetMs, `budget ${milliseconds(this.budgetMs)}${this.budgetMs > end ? " (beyond the right end)" : ""}`));
    track.setAttribute("aria-label", said.join(", "));
    const kind = report.budget_kind === "total" ? "Whole answer" : "Time to first token";
    return element("div", { class: "part" }, element("h4", { text: `${kind}: bound against measured` }), track, legend);
  }

  #waterfall(report, timing) {
    const ttft = number(report.ttft_ms);
    const total = number(report.total_ms);
    const stages = timing.map(([name, ms]) => [name, STAGE_WORDS[name] ?? name, ms]);
    const told = stages.reduce((sum, [, , ms]) => sum + ms, 0);
    if (ttft !== null && ttft - told > 0.05) stages.push(["between", stages.length ? "all else" : "first token", ttft - told]);
    if (total !== null && ttft !== null && total > ttft) stages.push(["rest", "rest of answer", total - ttft]);
    const end = Math.max(total ?? 0, stages.reduce((sum, [, , ms]) => sum + ms, 0), 0.001);
    const list = element("dl", { class: "waterfall" });
    let from = 0;
    for (const [name, words, ms] of stages) {
      const lane = element("dd", { class: `lane ${name}`, "aria-hidden": "true" });
      lane.append(placed(element("span"), { left: from / end, width: ms / end }));
      list.append(element("dt", { text: words }), lane, element("dd", { text: milliseconds(ms) }));
      from += ms;
    }
    return element("div", { class: "part" }, element("h4", { text: "Where the time went, up to the first token and after it" }), list);
  }
}
