/** Adding files and folders to a collection: they are stored, and a job reads them. */
import {Failure} from "../../components/notice.js"
import {events, post, remove, request} from "../../core/api.js"
import {html, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

const AT_ONCE = 3

export function Upload({collection, onDone}) {
  const [state, setState] = useState(null)
  const [error, setError] = useState(undefined)
  const [over, setOver] = useState(false)
  const picker = useRef(null)
  const add = async files => {
    setError(undefined)
    try {
      await ingest(collection, files, setState)
    } catch (failed) {
      setError(failed)
      setState(null)
    }
    onDone()
  }
  const drop = async event => {
    event.preventDefault()
    setOver(false)
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry()).filter(Boolean)
    add((await Promise.all(entries.map(filesOf))).flat())
  }
  return html`
    <section aria-labelledby="add"><h2 id="add">${t("search.add")}</h2>
      <div class=${over ? "drop over" : "drop"} onDragOver=${event => { event.preventDefault(); setOver(true) }}
           onDragLeave=${() => setOver(false)} onDrop=${drop}>
        <p>${t("search.drop")}</p>
        <input ref=${picker} id="files" type="file" multiple hidden onChange=${event => add([...event.target.files])} />
        <button onClick=${() => picker.current.click()}>${t("search.choose")}</button>
      </div>
      ${state && html`<div role="status"><p>${state.text}</p>
        <progress max=${state.total || undefined} value=${state.total ? state.done : undefined} aria-label=${state.text} /></div>`}
      <${Failure} error=${error} />
    </section>`
}

/** The files of a dropped file or folder. */
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))]
  const reader = entry.createReader()
  const found = []
  for (;;) {
    const part = await new Promise((done, fail) => reader.readEntries(done, fail))
    if (part.length === 0) break
    found.push(...part)
  }
  return (await Promise.all(found.map(filesOf))).flat()
}

async function ingest(collection, files, show) {
  const ids = []
  const waiting = [...files]
  show({text: t("search.uploading"), done: 0, total: files.length})
  const upload = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const form = new FormData()
      form.set("purpose", "ingest")
      form.set("file", file, file.name)
      show({text: t("search.uploading_one", {name: file.name}), done: ids.length, total: files.length})
      ids.push((await (await request("POST", "/v1/files", {body: form})).json()).id)
      show({text: t("search.uploading"), done: ids.length, total: files.length})
    }
  }
  await Promise.all(Array.from({length: AT_ONCE}, upload))
  const job = await post("/tasks/ingest", {collection, file_ids: ids})
  let last = job
  for await (const step of jobSteps(job.id)) {
    last = step
    show({text: t("search.reading"), done: step.progress.done, total: step.progress.total ?? 0})
  }
  await Promise.all(ids.map(id => remove(`/v1/files/${id}`).catch(() => {})))
  if (last.state !== "succeeded") throw new Error(last.error?.message ?? t("search.job_failed"))
  show({text: t("search.added", {count: last.progress.done}), done: 1, total: 1})
  if (last.progress.failed > 0) throw new Error(await faults(job.id))
}

/** Which files could not be read, and why. */
async function faults(id) {
  const lines = (await (await request("GET", `/tasks/${id}/results`)).text()).split("\n").filter(Boolean).map(line => JSON.parse(line))
  const failed = lines.filter(line => line.error)
  const told = failed.slice(0, 10).map(line => `${line.source}: ${line.error.message}`)
  return [t("search.some_failed", {count: failed.length}), ...told].join("\n")
}

/** The views of a job as it goes on, until it has ended. */
async function* jobSteps(id) {
  try {
    for await (const step of events(await request("GET", `/tasks/${id}/events`))) {
      yield step
      if (step.finished_at !== null) return
    }
  } catch (error) {
    if (error.code !== "cut_off") throw error
    yield await (await request("GET", `/tasks/${id}`)).json() // its stream has no [DONE]
  }
}
