/** One model: its deployments, loading and unloading it, and which deployment would answer. */
import {Confirm} from "../../components/dialog.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Meter} from "../../components/meter.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {post, remove} from "../../core/api.js"
import {bytes, duration, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf} from "../../core/query.js"
import {address, go} from "../../core/router.js"
import {may} from "../../core/session.js"
import {useWatched} from "../../core/watch.js"
import {choose} from "../playground/conversation.js"
import {Explain} from "./explain.js"
import {dotted} from "../settings/value.js"
import {modelPath} from "./model_path.js"
import {Edit} from "./register.js"

export function OneModel({name}) {
  const {data: model, error, reload} = useWatched(`${modelPath(name)}?watch=true`)
  const [failed, setFailed] = useState(undefined)
  const [asking, setAsking] = useState("")
  const load = async () => {
    setFailed(undefined)
    try { await post(`${modelPath(name)}/load?wait=false`) } catch (problem) { setFailed(problem) }
  }
  const unload = () => {
    setFailed(undefined)
    post(`${modelPath(name)}/unload`).catch(setFailed)
  }
  return html`
    <p><a href=${address("models")}>${t("models.back")}</a></p>
    <div class="title-row"><h1 class="name">${name}</h1>${model && html`<${StateBadge} state=${model.state} />`}</div>
    <${Failure} error=${error ?? failed} retry=${error && reload} />
    ${!model ? !error && html`<${Waiting} />` : html`
      <${Problem} error=${model.error} />
      <${Actions} model=${model} onLoad=${load} onUnload=${() => setAsking("unload")} onEdit=${() => setAsking("edit")} onRemove=${() => setAsking("remove")} />
      ${model.load && html`<${Loading} load=${model.load} />`}
      ${model.state === "draining" && html`<p class="notice busy" role="status">${t("models.draining", {count: model.in_flight})}</p>`}
      <${Facts} model=${model} />
      ${may.peek()("models:write") && html`<${HowChanged} model=${model} />`}
      <h2>${t("models.deployments")}</h2>
      <${Deployments} rows=${model.deployments} />
      ${model.deployments.length > 0 && html`<${Explain} name=${name} />`}`}
    ${asking === "unload" && html`<${Confirm} title=${t("models.unload_title", {name})} lost=${t("models.unload_lost")}
      action=${t("models.unload")} onClose=${() => setAsking("")} onConfirm=${async () => unload()} />`}
    ${asking === "edit" && html`<${Edit} name=${name} onClose=${() => setAsking("")} />`}
    ${asking === "remove" && html`<${Confirm} title=${t("models.remove_title", {name})}
      lost=${t(model.source === "file" ? "models.remove_file_lost" : "models.remove_lost")}
      action=${t("action.remove")} onClose=${() => setAsking("")}
      onConfirm=${async () => { await remove(modelPath(name)); go("models") }} />`}`
}

/** Why it failed, with the engine's last lines. */
const Problem = ({error}) => error && html`
  <div class="notice bad" role="alert"><p>${error.message}</p>
    ${error.log?.length > 0 && html`<details><summary>${t("models.log")}</summary><pre tabindex="0">${error.log.join("\n")}</pre></details>`}</div>`

function Actions({model, onLoad, onUnload, onEdit, onRemove}) {
  const writes = may.peek()("models:write")
  const loads = writes && model.deployments.some(each => each.loadable)
  const unloaded = ["unloaded", "failed", "unknown"].includes(model.state)
  const tries = () => { choose([model.name]); go("playground") }
  return html`
    <div class="actions start">
      ${may.peek()("generate") && html`<button class="primary" onClick=${tries}>${t("models.try")}</button>`}
      ${loads && (unloaded
        ? html`<button onClick=${onLoad}>${t("models.load")}</button>`
        : html`<button onClick=${onUnload}>${t("models.unload")}</button>`)}
      ${model.registration && html`<button onClick=${onEdit}>${t("models.edit")}</button>`}
      ${writes && ["runtime", "file"].includes(model.source) && html`<button class="quiet" onClick=${onRemove}>${t("action.remove")}</button>`}
    </div>`
}

/** How far a load is: what the engine takes of what it is expected to take. */
function Loading({load}) {
  const seconds = Math.max(0, Date.now() / 1000 - load.since)
  const known = load.memory !== null && load.expected
  return html`
    <div class="notice busy" role="status">
      <p>${t(load.waits_for_room ? "models.waits_for_room" : "models.loading")} · ${duration(seconds * 1000)}${known ? ` · ${bytes(load.memory)} / ${bytes(load.expected)}` : ""}</p>
      <progress aria-label=${t("models.loading")} max="1" value=${known ? Math.min(0.99, load.memory / load.expected) : undefined} />
    </div>`
}

const Facts = ({model}) => html`
  <dl class="facts">
    <div><dt>${t("models.source")}</dt><dd>${t(`source.${model.source}`)}</dd></div>
    <div><dt>${t("models.running")}</dt><dd>${number(model.in_flight)}</dd></div>
    ${model.memory !== null && html`<div><dt>${t("models.memory")}</dt><dd>${bytes(model.memory)}</dd></div>`}
    ${model.loaded_at !== null && html`<div><dt>${t("models.loaded")}</dt><dd><${When} at=${model.loaded_at} /></dd></div>`}
    <div><dt>${t("models.last_used")}</dt><dd><${When} at=${model.last_used} /></dd></div>
    <div><dt>${t("models.fallbacks")}</dt><dd>${model.fallbacks.map((name, index) => html`${index > 0 ? " → " : ""}<a key=${name} href=${address("models", name)}>${name}</a>`)}${model.fallbacks.length === 0 ? "–" : ""}</dd></div>
  </dl>`

/** Where a model is changed that this page cannot change. */
const HowChanged = ({model}) => html`
  ${model.source !== "runtime" && html`<p class="dim">${t(`models.by_${model.source}`)}
    ${model.source === "config" && may.peek()("admin") && html` <a href=${addressOf("settings", "", {find: dotted(["llm", "models", model.name])})}>${t("models.its_settings")}</a>`}</p>`}
  ${model.shadows && html`<p class="dim">${t("models.shadows")}</p>`}`

function Deployments({rows}) {
  const columns = [
    {key: "model", title: t("models.deployment"), cell: each => `${each.provider}/${each.model}`},
    {key: "state", title: t("models.state"), cell: each => html`<${StateBadge} state=${each.state} />`},
    {key: "breaker", title: t("models.breaker"), cell: each => html`<${StateBadge} state=${each.breaker.state} />`},
    {key: "running", title: t("models.running"), numeric: true, cell: each => each.max_concurrency === null ? number(each.in_flight) : html`
      <span class="gauge">${number(each.in_flight)} / ${number(each.max_concurrency)} <${Meter} value=${each.in_flight} most=${each.max_concurrency} label=${t("models.running")} /></span>`},
    {key: "waiting", title: t("models.waiting"), numeric: true, cell: each => number(each.waiting)},
    {key: "weight", title: t("models.weight"), numeric: true, cell: each => number(each.weight)},
    {key: "priority", title: t("models.priority"), numeric: true, cell: each => number(each.priority)},
    {key: "trouble", title: t("models.trouble"), cell: each => {
      const words = troubleOf(each)
      return html`<span title=${words}>${words || "–"}</span>`
    }},
  ]
  return html`<${Table} label=${t("models.deployments")} columns=${columns} rows=${rows}
    id=${each => `${each.provider}/${each.model}`} />`
}

function troubleOf({breaker, cooling_for: cooling}) {
  const words = []
  if (cooling > 0) words.push(t("models.cooling", {time: duration(cooling * 1000)}))
  if (breaker.opens_for) words.push(t("models.opens_for", {time: duration(breaker.opens_for * 1000)}))
  if (breaker.last_failure) words.push(breaker.last_failure)
  return words.join(" · ")
}
