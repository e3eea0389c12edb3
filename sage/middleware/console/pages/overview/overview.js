/** How the gateway is: what is not well and what to do, what happens now, how it went, the models. */
import {Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {StateBadge} from "../../components/state_badge.js"
import {html, useEffect, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {may} from "../../core/session.js"
import {useSoon} from "../../core/soon.js"
import {mergeModels, useWatched} from "../../core/watch.js"
import {Now} from "./now.js"
import {OverTime} from "./over_time.js"
import {Troubles} from "./troubles.js"

const PAUSE = 5000 // milliseconds from something that happened to a look at the sums, which has all that happens until then
const MOST = 60 // models that are shown

export function Overview() {
  const [turn, setTurn] = useState(0)
  const models = useWatched("/models?watch=true", mergeModels)
  const again = useSoon(() => setTurn(count => count + 1), PAUSE)
  const isFirst = useRef(true)
  useEffect(() => { // a call changes when its model was used last
    if (models.data && !isFirst.current) again()
    if (models.data) isFirst.current = false
  }, [models.data])
  return html`
    <${PageHead} title=${t("page.overview")} />
    <${Troubles} turn=${turn} models=${models.data?.models} />
    ${may.peek()("metrics") && html`<${Now} />`}
    ${may.peek()("usage") && html`<${OverTime} turn=${turn} />`}
    <section aria-labelledby="models-title">
      <h2 id="models-title">${t("overview.models")}</h2>
      <${Failure} error=${models.error} retry=${models.reload} />
      ${models.data ? html`<${ModelStates} models=${models.data.models} />` : !models.error && html`<${Waiting} />`}
    </section>`
}

const ModelStates = ({models}) => html`
  <ul class="cards">${models.slice(0, MOST).map(model => html`
    <li key=${model.name}><a class="card-link" href=${address("models", model.name)}>
      <span class="name">${model.name}</span>
      <${StateBadge} state=${model.state} />
      <span class="dim">${model.provider ?? ""}</span>
      ${model.in_flight > 0 && html`<span class="dim">${t("models.in_flight", {count: model.in_flight})}</span>`}
    </a></li>`)}</ul>
  ${models.length > MOST && html`<p><a href=${address("models")}>${t("overview.and_more", {count: models.length - MOST})}</a></p>`}`
