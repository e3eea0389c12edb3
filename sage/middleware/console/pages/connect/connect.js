/** How a program connects to this gateway, with a fresh key. */
import {CodeBlock, CopyButton} from "../../components/copyable.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {Tabs} from "../../components/tabs.js"
import {get, post} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {hasAccounts, may, me} from "../../core/session.js"
import {chatModels} from "../playground/chat_models.js"
import {clients} from "./client_texts.js"

const SCOPES = ["generate", "models:read"]

export function Connect() {
  const {data, error, reload} = useLoaded(stop => get("/models", stop))
  const [key, setKey] = useState("")
  const [model, setModel] = useState("")
  const [failed, setFailed] = useState(undefined)
  const [busy, setBusy] = useState(false)
  if (!data) return html`<h1>${t("page.connect")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const names = chatModels(data.models)
  if (names.length === 0) return html`<h1>${t("page.connect")}</h1>
    <${Empty} title=${t("models.none")}><p>${t("models.none_hint")}</p><a class="button" href="#/models">${t("page.models")}</a><//>`
  const scopes = SCOPES.filter(scope => may.peek()(scope))
  const make = async () => {
    setBusy(true)
    setFailed(undefined)
    try {
      setKey((await post("/auth/keys", {name: t("connect.key_name"), scopes})).key)
    } catch (problem) {
      setFailed(problem)
    }
    setBusy(false)
  }
  const shown = hasAccounts.peek() ? key || t("connect.your_key") : "none"
  const mayMake = hasAccounts.peek() && may.peek()("account") && scopes.length > 0
  return html`
    <h1>${t("page.connect")}</h1>
    <p>${t("connect.intro")}</p>
    <p><span class="dim">${t("connect.address")}</span> <code>${location.origin}/v1</code> <${CopyButton} text=${`${location.origin}/v1`} /></p>
    <div class="options spaced">
      <${Field} label=${t("playground.model")}>${field => html`
        <select ...${field} value=${model || names[0]} onChange=${event => setModel(event.target.value)}>
          ${names.map(name => html`<option key=${name} value=${name}>${name}</option>`)}</select>`}<//>
      ${mayMake && html`<button class="primary" disabled=${busy || !!key} onClick=${make}>${t("connect.make_key")}</button>`}
    </div>
    ${key && html`<p class="notice good" role="status">${t("connect.made_key")} <a href="#/keys">${t("page.keys")}</a></p>`}
    ${hasAccounts.peek() && !mayMake && html`<p class="dim">${t("connect.no_key", {user: me.peek()?.user})}</p>`}
    <${Failure} error=${failed} />
    <${Tabs} label=${t("page.connect")} tabs=${clients({origin: location.origin, key: shown, model: model || names[0]}).map(client => ({
      name: client.name,
      body: () => client.parts.map(part => html`<${CodeBlock} key=${part.text} language=${part.file} text=${part.text} />`),
    }))} />`
}
