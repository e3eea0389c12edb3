/** How a setting's name, its value and its source are written. */
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

/** A path as a configuration names it; names with dots of their own are quoted. */
export const dotted = path => path.map(name => name.includes(".") ? `"${name}"` : name).join(".")

/** The text of a value, as YAML would have it on one line. */
export function valueText(value) {
  if (value === null) return "null"
  if (typeof value === "string") return value === "" ? '""' : value
  return JSON.stringify(value)
}

export const Value = ({value, hidden}) => html`
  <code class=${value === null ? "dim" : ""} title=${valueText(value)}>${value === null ? "–" : valueText(value)}</code>
  ${hidden && html` <span class="badge calm">${t("settings.hidden")}</span>`}`

const MOODS = {default: "calm", file: "good", environment: "busy", command_line: "busy", api: "good", program: "good"}

/** Where a value comes from; variables are named. */
export function Source({source}) {
  const names = source.name ? [source.name] : source.variables
  return html`<span class=${`badge ${MOODS[source.kind]}`}>${t(`origin.${source.kind}`)}</span>
    ${names.length > 0 && html` <code class="dim">${names.join(", ")}</code>`}`
}
