/** Scopes and patterns in words, and the fields for them. */
import {Field} from "../../components/field.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

/** The scopes of a key in words: the first ones, and how many more. */
export function rights({scopes}) {
  const words = scopes.map(scope => t(`scope.${scope}`))
  return words.length <= 2 ? words.join(", ") : t("keys.and_more", {first: words[0], count: words.length - 1})
}

export const ScopeList = ({scopes}) => html`<ul class="scopes">${scopes.map(scope => html`<li key=${scope} title=${scope}>${t(`scope.${scope}`)}</li>`)}</ul>`

/** The words of a text, with commas or spaces between. */
export const words = text => String(text ?? "").split(/[\s,]+/).filter(Boolean)

export const patternText = patterns => patterns.includes("*") ? t("keys.all_models") : patterns.join(", ")

export const TextField = ({label, name, value = "", hint = undefined, ...more}) => html`
  <${Field} label=${label} hint=${hint}>${field => html`<input ...${field} name=${name} defaultValue=${value} spellcheck="false" autocomplete="off" ...${more} />`}<//>`

/** Unix seconds as a field for a local time has them; empty for none. */
export function localTime(seconds) {
  if (!seconds) return ""
  const date = new Date(seconds * 1000)
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16)
}

/** What of `wanted` is not as it is in `known`. */
export const changesOf = (known, wanted) =>
  Object.fromEntries(Object.entries(wanted).filter(([name, value]) => JSON.stringify(value ?? null) !== JSON.stringify(known[name] ?? null)))

/** A budget as a form gives it: without what has become of it. */
export const plainBudget = budget => budget &&
  {[budget.tokens ? "tokens" : "usd"]: budget.tokens ?? budget.usd, window: budget.window, hard: budget.hard}

/** Limits without what they do not bound, in the order of the form. */
export const plainLimits = limits => {
  const given = ["rpm", "tpm", "concurrent"].filter(name => limits?.[name])
  return given.length ? Object.fromEntries(given.map(name => [name, limits[name]])) : null
}
