/** What a search found, with what each leg thinks of it. */
import {Empty} from "../../components/notice.js"
import {duration, number} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

export function Found({answer}) {
  const most = {}
  for (const {scores} of answer.results) {
    for (const [leg, score] of Object.entries(scores)) most[leg] = Math.max(most[leg] ?? 0, score ?? 0)
  }
  return html`
    <p class="dim" role="status">${t("search.took", {count: number(answer.total), took: duration(answer.took_ms)})}</p>
    ${(answer.warnings ?? []).map(warning => html`<p class="notice bad" key=${warning}>${warning}</p>`)}
    ${answer.results.length === 0
      ? html`<${Empty} title=${t("search.nothing")}><p>${t("search.nothing_hint")}</p><//>`
      : html`<ol class="results">${answer.results.map(result => html`<${Result} key=${result.id} result=${result} most=${most} />`)}</ol>`}`
}

const Result = ({result, most}) => html`
  <li>
    <div class="legs">
      <span class="numeric" title=${t("search.score")}>${result.score.toFixed(3)}</span>
      ${Object.entries(result.scores).filter(([leg, score]) => score !== null && most[leg] > 0).map(([leg, score]) => html`
        <span key=${leg} class="leg"><span class="dim">${t(`mode.${leg}`)}</span>
          <span class="meter" role="meter" aria-label=${t(`mode.${leg}`)} aria-valuemin="0" aria-valuemax="100"
            aria-valuenow=${Math.round(score / most[leg] * 100)}><span style=${{width: `${Math.max(0, score / most[leg]) * 100}%`}} /></span>
          <span class="numeric">${score.toFixed(3)}</span></span>`)}
    </div>
    <div><p>${passages(result)}</p>
      <p class="dim">${result.id}${Object.entries(result.metadata).slice(0, 6).map(([key, value]) => html`
        <span class="pair" key=${key}> · ${key}: ${typeof value === "string" ? value : JSON.stringify(value)}</span>`)}</p></div>
  </li>`

/** The passages that matched, or the beginning of the text. `<em>` in them is our own mark, and becomes an element. */
function passages({highlights, text}) {
  const shown = highlights?.length ? highlights.join(" … ") : text.slice(0, 400)
  if (!highlights?.length) return shown
  return shown.split(/<em>(.*?)<\/em>/s).map((part, index) => index % 2 ? html`<mark key=${index}>${part}</mark>` : part)
}
