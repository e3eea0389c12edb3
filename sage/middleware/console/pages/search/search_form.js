/** A question to a collection, with what can be chosen about it. */
import {Empty, Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {Found} from "./results.js"

/** The body of a search, out of the form. Raises `SyntaxError` for a filter that is no JSON. */
function wanted(form, collection) {
  const filter = String(form.get("filter")).trim()
  const threshold = String(form.get("threshold")).trim()
  const alpha = String(form.get("alpha"))
  return {query: form.get("query"), collection, mode: form.get("mode"), top_k: Number(form.get("top_k")), syntax: form.get("syntax"),
    highlight: true, ...(filter ? {filter: JSON.parse(filter)} : {}), ...(threshold ? {score_threshold: Number(threshold)} : {}),
    ...(alpha ? {alpha: Number(alpha)} : {})}
}

export function SearchForm({collection}) {
  const [answer, setAnswer] = useState(null)
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const ask = async event => {
    event.preventDefault()
    setBusy(true)
    setError(undefined)
    try {
      setAnswer(await post("/search", wanted(new FormData(event.target), collection.name)))
    } catch (failed) {
      setAnswer(null)
      setError(failed instanceof SyntaxError ? new Error(t("search.bad_filter")) : failed)
    }
    setBusy(false)
  }
  if (collection.documents === 0) return html`<${Empty} title=${t("search.no_documents")}><p>${t("search.no_documents_hint")}</p><//>`
  const choices = pairs => pairs.map(([each, text]) => html`<option key=${each} value=${each}>${text}</option>`)
  return html`
    <form onSubmit=${ask}>
      <div class="options">
        <${Field} label=${t("search.query")}>${field => html`<input ...${field} class="long" name="query" required autocomplete="off" />`}<//>
        <${Field} label=${t("search.mode")}>${field => html`<select ...${field} name="mode">${choices(["hybrid", "dense", "bm25"].map(each => [each, t(`mode.${each}`)]))}</select>`}<//>
        <${Field} label=${t("search.filter")}>${field => html`
          <input ...${field} class="long" name="filter" spellcheck="false" placeholder='{"lang": "zh", "year": {"$gte": 2020}}' />`}<//>
        <button class="primary" disabled=${busy}>${t("search.search")}</button>
      </div>
      <details class="further"><summary>${t("search.more")}</summary>
        <div class="options">
          <${Field} label=${t("search.top")}>${field => html`<input ...${field} name="top_k" type="number" min="1" max="100" defaultValue="10" />`}<//>
          <${Field} label=${t("search.threshold")}>${field => html`<input ...${field} name="threshold" type="number" min="0" max="1" step="0.01" placeholder="0–1" />`}<//>
          <${Field} label=${t("search.weight")}>${field => html`
            <select ...${field} name="alpha"><option value="">${t("search.automatic")}</option>
              ${["0", "0.25", "0.5", "0.75", "1"].map(each => html`<option key=${each} value=${each}>${Number(each) * 100} %</option>`)}</select>`}<//>
          <${Field} label=${t("search.syntax")}>${field => html`<select ...${field} name="syntax">${choices(["auto", "query", "plain"].map(each => [each, t(`syntax.${each}`)]))}</select>`}<//>
        </div></details>
    </form>
    <${Failure} error=${error} />
    ${answer && html`<${Found} answer=${answer} collection=${collection.name} />`}`
}
