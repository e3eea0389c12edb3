/** How the gateway is: what is not well and what to do, what happens now, how it went, the models. */
import {Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {StateBadge} from "../../components/state_badge.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {may} from "../../core/session.js"
import {Now} from "./now.js"
import {OverTime} from "./over_time.js"
import {Troubles} from "./troubles.js"

const PAUSE = 10_000 // milliseconds from one look at what is not well to the next
const MOST = 60 // models that are shown

export function Overview() {
  const [turn, setTurn] = useState(0)
  const looked = useRef(Date.now())
  const models = useLoaded(stop => get("/models", stop), [turn])
  const again = () => {
    if (Date.now() - looked.current < PAUSE) return
    looked.current = Date.now()
    setTurn(count => count + 1)
  }
  return html`
    <${PageHead} title=${t("page.overview")} />
    <${Troubles} turn=${turn} />
    ${may.peek()("metrics") && html`<${Now} onFailed=${again} />`}
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
