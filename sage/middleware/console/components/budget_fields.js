/** The fields of a form for a budget and for rate limits, and what they come to. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"
import {Field} from "./field.js"

const WINDOWS = ["month", "week", "day", "total"]
const BOUNDS = ["rpm", "tpm", "concurrent"]

/** `name` goes before the names of the fields, where a form has several budgets. */
export const BudgetFields = ({budget, name = "", label = t("people.budget")}) => html`
  <fieldset class="row-fields"><legend>${label}</legend>
    <${Field} label=${t("budget.amount")} hint=${t("people.budget_hint")}>${field => html`
      <input ...${field} name=${`${name}amount`} type="number" min="0" step="any" defaultValue=${budget ? budget.usd ?? budget.tokens : ""} />`}<//>
    <${Field} label=${t("budget.unit")}>${field => html`
      <select ...${field} name=${`${name}unit`}>${["usd", "tokens"].map(each => html`
        <option key=${each} value=${each} selected=${each === (budget?.tokens ? "tokens" : "usd")}>${t(`budget.${each}`)}</option>`)}</select>`}<//>
    <${Field} label=${t("people.window")}>${field => html`
      <select ...${field} name=${`${name}window`}>${WINDOWS.map(each => html`
        <option key=${each} value=${each} selected=${each === budget?.window}>${t(`window.${each}`)}</option>`)}</select>`}<//>
    <label class="check"><input type="checkbox" name=${`${name}hard`} defaultChecked=${budget?.hard ?? true} /> ${t("budget.hard")}</label>
  </fieldset>`

/** The budget of a form; `null` where no amount is given. */
export function readBudget(/** @type {FormData} */ form, name = "") {
  const amount = Number(form.get(`${name}amount`))
  if (!amount) return null
  return {[String(form.get(`${name}unit`))]: amount, window: form.get(`${name}window`), hard: form.get(`${name}hard`) === "on"}
}

export const LimitFields = ({limits, name = "", label = t("page.limits")}) => html`
  <fieldset class="row-fields"><legend>${label}</legend>
    ${BOUNDS.map(bound => html`<${Field} key=${bound} label=${t(`limit.${bound}`)}>${field => html`
      <input ...${field} name=${name + bound} type="number" min="1" step="1" defaultValue=${limits?.[bound] ?? ""} />`}<//>`)}
  </fieldset>`

/** The limits of a form; `null` where none is given. */
export function readLimits(/** @type {FormData} */ form, name = "") {
  const given = BOUNDS.map(bound => [bound, Number(form.get(name + bound))]).filter(([, value]) => value)
  return given.length ? Object.fromEntries(given) : null
}

/** What is set of limits, in words. */
export const limitText = limits => BOUNDS.filter(bound => limits?.[bound]).map(bound => t(`limit.some_${bound}`, {count: limits[bound]})).join(", ")
