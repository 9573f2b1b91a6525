// A slider over budgets that are round numbers, about a twentieth apart, beside a field for any other.
import { byId, element, milliseconds, placed } from "./elements.js";

const MANTISSAS = [10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 33, 36, 40, 45, 50, 55, 60, 65, 70, 75, 80, 90];
const BUDGETS = [0.1, 1, 10, 100, 1000].flatMap((scale) => MANTISSAS.map((each) => (scale === 0.1 ? each / 10 : each * scale))).filter((ms) => ms >= 5 && ms <= 10_000);
const TICKS = [10, 30, 100, 300, 1000, 3000, 10_000];
const LARGEST_MS = 3_600_000;

const nearest = (ms) => BUDGETS.reduce((best, each, index) => (Math.abs(Math.log(each / ms)) < Math.abs(Math.log(BUDGETS[best] / ms)) ? index : best), 0);

export class BudgetSlider {
  constructor(name, ms, changed) {
    this.slider = byId(`budget-${name}`);
    this.exact = byId(`exact-${name}`);
    this.row = byId(`budget-row-${name}`);
    this.slider.max = String(BUDGETS.length - 1);
    byId(`ticks-${name}`).append(
      ...TICKS.map((tick) => placed(element("span", { text: tick < 1000 ? String(tick) : `${tick / 1000} s` }), { left: nearest(tick) / (BUDGETS.length - 1) })),
    );
    this.set(ms);
    this.slider.addEventListener("input", () => this.set(BUDGETS[this.slider.valueAsNumber]));
    this.slider.addEventListener("change", changed);
    this.exact.addEventListener("change", () => {
      const asked = this.exact.valueAsNumber;
      this.set(asked > 0 ? Math.min(asked, LARGEST_MS) : this.ms);
      changed();
    });
  }

  set(ms) {
    this.ms = ms;
    this.exact.value = String(ms);
    this.slider.value = String(nearest(ms));
    this.slider.setAttribute("aria-valuetext", milliseconds(ms));
  }
}
