/** How a setting's name, its value and its source are written. */
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

/** A path as a configuration names it; names with dots of their own are quoted. */
export const dotted = path => path.map(name => name.includes(".") ? `"${name}"` : name).join(".")

const STEPS = {seconds: [["d", 86400], ["h", 3600], ["m", 60]], bytes: [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]}

/** A number of seconds or bytes with the largest unit that leaves it whole; a configuration may say it so, too. */
function quantity(value, unit) {
  const step = value > 0 ? STEPS[unit].find(([, size]) => value % size === 0) : undefined
  if (step) return `${value / step[1]}${step[0]}`
  return unit === "seconds" ? `${value}s` : `${value}B`
}

/**
 * The text of a value, as YAML would have it on one line.
 * @param {any} value
 * @param {"seconds" | "bytes" | null} [unit]
 */
export function valueText(value, unit = null) {
  if (value === null) return "null"
  if (unit && typeof value === "number") return quantity(value, unit)
  if (typeof value === "string") return value === "" ? '""' : value
  return JSON.stringify(value)
}

export const Value = ({value, hidden, unit}) => html`
  <code class=${value === null ? "dim" : ""} title=${valueText(value, unit)}>${value === null ? "–" : valueText(value, unit)}</code>
  ${hidden && html` <span class="badge calm">${t("settings.hidden")}</span>`}`

const MOODS = {default: "calm", file: "good", environment: "busy", command_line: "busy", api: "good", program: "good"}

/** Where a value comes from; variables are named. */
export function Source({source}) {
  const names = source.name ? [source.name] : source.variables
  return html`<span class=${`badge ${MOODS[source.kind]}`}>${t(`origin.${source.kind}`)}</span>
    ${names.length > 0 && html` <code class="dim">${names.join(", ")}</code>`}`
}
