/** New vectors for a whole collection: choosing the embedder, and how far they are. */
import {Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {told} from "../../components/toast.js"
import {get, post, remove} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {path} from "./collection_path.js"

const OWN = ["local", "local-multilingual"]

/** A field for an embedder's name, which suggests those that there are. */
export function EmbedderInput({field, required = false}) {
  const {data} = useLoaded(stop => get("/models", stop))
  const names = (data?.models ?? []).map(model => model.name).filter(name => /embed|e5|bge|minilm/i.test(name))
  return html`<input ...${field} name="embedder" list="embedders" required=${required} spellcheck="false" autocomplete="off" />
    <datalist id="embedders">${[...new Set([...OWN, ...names])].map(name => html`<option key=${name} value=${name} />`)}</datalist>`
}

const start = (name, embedder) => post(`${path(name, "/reembed")}?wait=false`, {embedder})

export function Reembed({collection, onChange}) {
  const [failed, setFailed] = useState(undefined)
  const begin = async event => {
    event.preventDefault()
    setFailed(undefined)
    try {
      await start(collection.name, String(new FormData(event.target).get("embedder")).trim())
      told(t("search.reembed_started"))
      onChange()
    } catch (problem) {
      setFailed(problem)
    }
  }
  return html`
    <form class="options" onSubmit=${begin}>
      <${Field} label=${t("search.embedder")}>${field => html`<${EmbedderInput} field=${{...field, class: "long"}} required />`}<//>
      <button disabled=${!!collection.reembedding?.running}>${t("search.reembed")}</button>
    </form>
    <p class="dim">${t("search.reembed_hint")}</p>
    <${Failure} error=${failed} />`
}

export function ReembedProgress({collection, writes, onChange}) {
  const {embedder, done, total, running} = collection.reembedding
  const [failed, setFailed] = useState(undefined)
  const act = work => async () => {
    try { await work() } catch (problem) { setFailed(problem) }
    onChange()
  }
  const text = t(running ? "search.reembedding" : "search.reembed_waits", {embedder})
  return html`
    <div class="notice progress-note" role="status"><p>${text} <span class="numeric">${number(done)} / ${number(total)}</span></p>
      <progress max=${total || undefined} value=${total ? done : undefined} aria-label=${text} />
      ${writes && html`<div class="actions">${running
        ? html`<button class="quiet" onClick=${act(() => remove(path(collection.name, "/reembed")))}>${t("search.reembed_stop")}</button>`
        : html`<button onClick=${act(() => start(collection.name, embedder))}>${t("search.reembed_go_on")}</button>`}</div>`}
      <${Failure} error=${failed} /></div>`
}
