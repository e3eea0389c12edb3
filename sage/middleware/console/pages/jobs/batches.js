/** Batches of OpenAI's kind: many requests in a file, how far they are, and what they made. */
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Meter} from "../../components/meter.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {get, post} from "../../core/api.js"
import {download} from "../../core/download.js"
import {useEvery} from "../../core/every.js"
import {number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {upload} from "./files.js"

const GOING = ["validating", "in_progress", "finalizing", "cancelling"]
const ENDPOINTS = ["/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/rerank"]

export function Batches() {
  const {data, error, reload} = useLoaded(stop => get("/v1/batches?limit=100", stop))
  const [open, setOpen] = useState(null)
  const [making, setMaking] = useState(false)
  useEvery(reload, data?.data.some(each => GOING.includes(each.status)) ?? false)
  const columns = [
    {key: "id", title: t("jobs.id"), cell: each => html`<code>${each.id}</code>`},
    {key: "endpoint", title: t("jobs.endpoint"), cell: each => each.endpoint},
    {key: "status", title: t("models.state"), cell: each => html`<${StateBadge} state=${each.status} />`},
    {key: "counts", title: t("jobs.progress"), cell: each => html`<${Counts} batch=${each} />`},
    {key: "created", title: t("jobs.created"), cell: each => html`<${When} at=${each.created_at} />`},
  ]
  return html`
    <div class="actions start"><button class="primary" onClick=${() => setMaking(true)}>${t("jobs.new_batch")}</button></div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.data.length === 0
      ? html`<${Empty} title=${t("jobs.no_batches")}><p>${t("jobs.no_batches_hint")}</p><//>`
      : html`<${Table} label=${t("jobs.batches")} columns=${columns} rows=${data.data} id=${each => each.id} onOpen=${each => setOpen(each.id)} />`}
    ${making && html`<${NewBatch} onClose=${() => setMaking(false)} onMade=${reload} />`}
    ${open && html`<${OneBatch} batch=${data?.data.find(each => each.id === open)} onClose=${() => setOpen(null)} onChange=${reload} />`}`
}

const Counts = ({batch: {id, request_counts: {total, completed, failed}}}) => total === 0 ? "–" : html`
  <span class="progress"><${Meter} value=${completed + failed} most=${total} label=${id} tone=${failed ? "busy" : "good"} />
    <span class="numeric">${number(completed)} / ${number(total)}</span>
    ${failed > 0 && html`<span class="bad-text">${t("jobs.failed", {count: number(failed)})}</span>`}</span>`

function NewBatch({onClose, onMade}) {
  const [failed, setFailed] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const make = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    setBusy(true)
    try {
      const file = await upload(form.get("file"), "batch")
      await post("/v1/batches", {input_file_id: file.id, endpoint: form.get("endpoint"), completion_window: form.get("window")})
      told(t("jobs.batch_made"))
      onMade()
      onClose()
    } catch (problem) {
      setFailed(problem)
      setBusy(false)
    }
  }
  return html`
    <${Panel} title=${t("jobs.new_batch")} onClose=${onClose}>
      <form onSubmit=${make}>
        <${Field} label=${t("jobs.file")} hint=${t("jobs.batch_file_hint")}>${field => html`
          <input ...${field} name="file" type="file" accept=".jsonl,.ndjson" required />`}<//>
        <${Field} label=${t("jobs.endpoint")}>${field => html`
          <select ...${field} name="endpoint">${ENDPOINTS.map(each => html`<option key=${each} value=${each}>${each}</option>`)}</select>`}<//>
        <${Field} label=${t("jobs.window")} hint=${t("jobs.window_hint")}>${field => html`<input ...${field} name="window" defaultValue="24h" required />`}<//>
        <${Failure} error=${failed} />
        <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
          <button class="primary" disabled=${busy}>${t("jobs.make_batch")}</button></div>
      </form>
    <//>`
}

function OneBatch({batch, onClose, onChange}) {
  const [failed, setFailed] = useState(undefined)
  const [cancelling, setCancelling] = useState(false)
  if (!batch) return null
  const save = id => () => download(`/v1/files/${id}/content`, `${id}.jsonl`).catch(setFailed)
  const errors = batch.errors?.data ?? []
  return html`
    <${Panel} title=${t("job.batch")} onClose=${onClose}>
      <${Failure} error=${failed} />
      ${errors.length > 0 && html`<ul class="notice bad">${errors.slice(0, 20).map((each, index) => html`
        <li key=${index}>${each.line === null ? "" : `${t("jobs.line", {number: each.line})} `}${each.message}</li>`)}</ul>`}
      <${Facts} items=${[
        [t("models.state"), html`<${StateBadge} state=${batch.status} />`],
        [t("jobs.progress"), html`<${Counts} batch=${batch} />`],
        [t("jobs.endpoint"), batch.endpoint],
        [t("requests.model"), batch.model],
        [t("jobs.created"), html`<${When} at=${batch.created_at} />`],
        [t("jobs.finished"), html`<${When} at=${batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at} />`],
        [t("jobs.expires"), html`<${When} at=${batch.expires_at} />`],
        ...Object.entries(batch.metadata ?? {}),
        [t("jobs.id"), html`<code>${batch.id}</code>`],
      ]} />
      <div class="actions start">
        <button onClick=${save(batch.input_file_id)}>${t("jobs.input")}</button>
        ${batch.output_file_id && html`<button onClick=${save(batch.output_file_id)}>${t("jobs.output")}</button>`}
        ${batch.error_file_id && html`<button onClick=${save(batch.error_file_id)}>${t("jobs.errors")}</button>`}
      </div>
      ${GOING.includes(batch.status) && html`<div class="actions">
        <button class="danger" disabled=${batch.status === "cancelling"} onClick=${() => setCancelling(true)}>${t("jobs.cancel")}</button></div>`}
      ${cancelling && html`<${Confirm} title=${t("jobs.cancel_title")} lost=${t("jobs.cancel_lost")} action=${t("jobs.cancel_batch")}
        onClose=${() => setCancelling(false)} onConfirm=${async () => { await post(`/v1/batches/${batch.id}/cancel`); onChange() }} />`}
    <//>`
}
