/** Every model with its state, and the memory that engines of the gateway take. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Icon} from "../../components/icon.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {bytes, number} from "../../core/format.js"
import {html, useSignal, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address, go, place} from "../../core/router.js"
import {may} from "../../core/session.js"
import {mergeModels, useWatched} from "../../core/watch.js"
import {MemoryBar} from "./memory_bar.js"
import {OneModel} from "./one_model.js"
import {Pull} from "./pull.js"
import {Register} from "./register.js"

export function Models() {
  const {rest} = useSignal(place)
  return rest ? html`<${OneModel} key=${rest} name=${rest} />` : html`<${AllModels} />`
}

function AllModels() {
  const {data, error, loading, reload} = useWatched("/models?watch=true", mergeModels)
  const [open, setOpen] = useState("")
  const columns = [
    {key: "name", title: t("models.name"), cell: model => html`<a href=${address("models", model.name)}>${model.name}</a>`},
    {key: "state", title: t("models.state"), cell: model => html`<${StateBadge} state=${model.state} />${model.pin ? html` <span class="dim">${t("models.pinned")}</span>` : ""}`},
    {key: "health", title: t("models.health"), cell: model => html`<${Health} deployments=${model.deployments} />`},
    {key: "provider", title: t("models.provider"), cell: model => html`<${Providers} deployments=${model.deployments} />`},
    {key: "in_flight", title: t("models.running"), numeric: true, cell: model => number(model.in_flight)},
    {key: "waiting", title: t("models.waiting"), numeric: true, cell: model => number(model.deployments[0]?.waiting ?? 0)},
    {key: "memory", title: t("models.memory"), numeric: true, cell: model => bytes(model.memory)},
    {key: "last_used", title: t("models.last_used"), cell: model => html`<${When} at=${model.last_used} />`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.models")}</h1>
      ${may.peek()("models:write") && data && html`
        <button onClick=${() => setOpen("pull")}>${t("models.pull")}</button>
        <button class="primary" onClick=${() => setOpen("register")}><${Icon} name="plus" /> ${t("models.add")}</button>`}</div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? loading && html`<${Waiting} />` : html`
      <${MemoryBar} memory=${data.memory} />
      ${data.models.length === 0
        ? html`<${Empty} title=${t("models.none")}><p>${t("models.none_hint")}</p><//>`
        : html`<${Table} label=${t("page.models")} columns=${columns} rows=${data.models} id=${model => model.name}
                 onOpen=${model => go("models", model.name)} />`}`}
    ${open === "pull" && html`<${Pull} onClose=${() => setOpen("")} />`}
    ${open === "register" && html`<${Register} providers=${data.providers} models=${data.models} onClose=${() => setOpen("")} />`}`
}

/** A mark for each deployment, up to some; what is not well in words. */
function Health({deployments}) {
  const ill = deployments.filter(each => each.breaker.state !== "closed" || each.cooling_for > 0 || each.state === "failed")
  const words = ill.map(each => `${each.provider}: ${t(each.cooling_for > 0 ? "explain.cooling" : `state.${each.state === "failed" ? "failed" : each.breaker.state}`)}`)
  return html`<span class="health" title=${words.join("\n")}>
    <span aria-hidden="true">${deployments.slice(0, 8).map((each, index) => html`<i key=${index} class=${ill.includes(each) ? "bad" : "good"} />`)}</span>
    ${t("models.well", {count: deployments.length, well: deployments.length - ill.length})}</span>`
}

function Providers({deployments}) {
  const names = [...new Set(deployments.map(each => each.provider))]
  return html`<span title=${names.join(", ")}>${names[0] ?? "–"}${names.length > 1 ? html` <span class="dim">+${number(names.length - 1)}</span>` : ""}</span>`
}
