/** How much of a whole is used, as a bar; or how much is done, where a `tone` is given. */
import {html} from "../core/html.js"

export const Meter = ({value, most, label, tone = undefined}) => {
  const share = most > 0 ? Math.min(1, value / most) : 0
  const mood = tone ?? (share >= 1 ? "bad" : share >= 0.8 ? "busy" : "good")
  return html`<span class=${`meter ${mood}`} role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(share * 100)}><span style=${{width: `${share * 100}%`}} /></span>`
}
