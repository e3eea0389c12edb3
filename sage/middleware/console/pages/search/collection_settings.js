/** How a collection is made, the state of its index, and what can be done with the whole. */
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Failure} from "../../components/notice.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {post, remove} from "../../core/api.js"
import {download} from "../../core/download.js"
import {bytes, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {go} from "../../core/router.js"
import {path} from "./collection_path.js"
import {Reembed} from "./reembed.js"

export function CollectionSettings({collection, writes, onChange}) {
  const {name, options, index} = collection
  const [failed, setFailed] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const [deleting, setDeleting] = useState(false)
  const act = async work => {
    setFailed(undefined)
    setBusy(true)
    try { await work() } catch (problem) { setFailed(problem) }
    setBusy(false)
  }
  const optimize = () => act(async () => { await post(path(name, "/optimize")); told(t("search.optimized")); onChange() })
  return html`
    <${Failure} error=${failed} />
    <${Facts} items=${[
      [t("search.embedder"), collection.embedder ?? t("search.keywords_only")],
      [t("vdb.dimension"), collection.dimension],
      [t("search.metric"), collection.metric],
      [t("search.languages"), collection.languages?.join(", ") ?? t("search.any_language")],
      [t("search.analysis"), options?.analysis && Object.entries(options.analysis).map(([key, value]) => `${key}: ${value}`).join(" · ")],
      [t("search.ranking"), options?.keywords && `${options.keywords.variant} · k1 ${options.keywords.k1} · b ${options.keywords.b}`],
      [t("search.shards"), collection.shards],
      [t("jobs.size"), bytes(collection.bytes)],
      [t("jobs.created"), html`<${When} at=${collection.created_at} />`],
      [t("search.index"), index && t("search.index_state", {segments: number(index.segments), indexed: number(index.indexed ?? 0), pending: number(index.pending ?? 0)})],
    ]} />
    ${(index?.problems ?? []).map(each => html`<p key=${String(each)} class="notice bad">${typeof each === "string" ? each : JSON.stringify(each)}</p>`)}
    ${writes && html`
      <h2>${t("search.reembed_title")}</h2>
      <${Reembed} collection=${collection} onChange=${onChange} />`}
    <h2>${t("search.whole")}</h2>
    <div class="actions start">
      <button disabled=${busy} onClick=${() => act(() => download(path(name, "/snapshot"), `${name}.snapshot`))}>${t("search.snapshot")}</button>
      ${writes && html`<button disabled=${busy} onClick=${optimize}>${t("search.optimize")}</button>
        <button class="danger" onClick=${() => setDeleting(true)}>${t("search.delete_collection")}</button>`}
    </div>
    ${deleting && html`<${Confirm} title=${t("search.delete_title", {name})} action=${t("search.delete")}
      lost=${t("search.delete_lost", {count: number(collection.documents ?? 0)})} onClose=${() => setDeleting(false)}
      onConfirm=${async () => { await remove(path(name)); go("search") }} />`}`
}
