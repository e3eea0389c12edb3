/** The texts of the console, by key, in the user's language. A test finds keys that a language lacks. */
import {signal} from "./html.js"

export const LANGUAGES = {en: "English", zh: "中文"}
const KEPT = "sage-language"
/** The language in use. */
export const language = signal("en")
const texts = signal({})
const plurals = {}

/** Loads the language that the user chose, or that of the browser. */
export async function startLanguage() {
  const wanted = localStorage.getItem(KEPT) ?? navigator.languages.find(tag => LANGUAGES[tag.slice(0, 2)])
  await useLanguage(wanted?.slice(0, 2) ?? "en", {keep: false})
}

export async function useLanguage(name, {keep = true} = {}) {
  const chosen = name in LANGUAGES ? name : "en"
  texts.value = await (await fetch(`/console/locales/${chosen}.json`)).json()
  language.value = chosen
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en"
  if (keep) localStorage.setItem(KEPT, chosen)
}

/**
 * The text of `key`, with `{name}` filled in. A text for several numbers is an object by plural form
 * (`{"one": …, "other": …}`), chosen by `values.count`. What the gateway names and nobody has put into words stands for
 * itself: the part of `key` after its prefix.
 */
export function t(key, values = {}) {
  const found = texts.peek()[key]
  const text = typeof found === "object" ? found[form(values.count)] ?? found.other : found ?? key.slice(key.indexOf(".") + 1)
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""))
}

function form(count) {
  plurals[language.peek()] ??= new Intl.PluralRules(language.peek())
  return plurals[language.peek()].select(count)
}
