/** How a program connects to this gateway, with a fresh key. */
import {CodeBlock} from "../../components/copyable.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Tabs} from "../../components/tabs.js"
import {get, post} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {hasAccounts, me} from "../../core/session.js"
import {clients} from "./client_texts.js"

const SCOPES = ["generate", "models:read"]

export function Connect() {
  const {data, error, reload} = useLoaded(stop => get("/models", stop))
  const [key, setKey] = useState("")
  const [failed, setFailed] = useState(undefined)
  const scopes = hasAccounts.peek() ? (me.peek()?.scopes ?? []).filter(scope => SCOPES.includes(scope)) : []
  const make = async () => {
    try {
      setKey((await post("/auth/keys", {name: t("connect.key_name"), scopes})).key)
    } catch (problem) {
      setFailed(problem)
    }
  }
  if (!data) return html`<h1>${t("page.connect")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const model = data.models.find(each => each.deployments.length > 0)?.name ?? "MODEL"
  const shown = hasAccounts.peek() ? key || t("connect.your_key") : "none"
  return html`
    <h1>${t("page.connect")}</h1>
    <p>${t("connect.intro")}</p>
    ${hasAccounts.peek() && html`
      <div class="actions start">
        <button class="primary" disabled=${!!key || scopes.length === 0} onClick=${make}>${t("connect.make_key")}</button>
        ${key && html`<span class="good-text" role="status">${t("connect.made_key")}</span>`}
      </div>`}
    <${Failure} error=${failed} />
    <${Tabs} label=${t("page.connect")} tabs=${clients({origin: location.origin, key: shown, model}).map(client => ({
      name: client.name,
      body: () => client.parts.map(part => html`<${CodeBlock} key=${part.file} language=${part.file} text=${part.text} />`),
    }))} />`
}
