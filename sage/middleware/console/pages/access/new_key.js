/** Making an API key; its secret is shown this once. */
import {BudgetFields, LimitFields, readBudget, readLimits} from "../../components/budget_fields.js"
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {Form} from "../../components/form_dialog.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may, me} from "../../core/session.js"
import {TextField, words} from "./rights.js"

const LASTING = {never: null, week: 7, month: 30, year: 365}
const NOT_OFFERED = ["admin", "tenant:admin", "worker", "tools:write"] // a key gets them only by the API or the command line

export const MadeKey = ({secret, onClose}) => html`
  <${Dialog} title=${t("keys.made")} onClose=${onClose}>
    <p>${t("keys.made_hint")}</p>
    <${CodeBlock} language=${t("keys.key")} text=${secret} />
    <div class="actions"><button class="primary" onClick=${onClose}>${t("keys.saved")}</button></div>
  <//>`

export function NewKey({onClose}) {
  const [made, setMade] = useState(null)
  const offered = (me.peek()?.scopes ?? []).filter(scope => !NOT_OFFERED.includes(scope))
  const make = async form => {
    const days = LASTING[String(form.get("lasting"))]
    const models = words(form.get("models"))
    const user = String(form.get("user") ?? "").trim()
    const limits = readLimits(form)
    const budget = readBudget(form)
    setMade(await post("/auth/keys", {
      name: form.get("name"),
      note: form.get("note"),
      tags: words(form.get("tags")),
      scopes: form.getAll("scope"),
      ...(user ? {user} : {}),
      ...(models.length > 0 ? {models} : {}),
      ...(limits ? {limits} : {}),
      ...(budget ? {budget} : {}),
      ...(days ? {expires_at: Math.floor(Date.now() / 1000) + days * 86_400} : {}),
    }))
  }
  if (made) return html`<${MadeKey} secret=${made.key} onClose=${onClose} />`
  return html`
    <${Dialog} title=${t("keys.make")} onClose=${onClose}>
      <${Form} action=${t("keys.make_action")} done=${t("keys.made")} send=${make} onCancel=${onClose}>
        <${TextField} label=${t("keys.name")} name="name" hint=${t("keys.name_hint")} maxlength="100" />
        ${may.peek()("tenant:admin") && html`<${TextField} label=${t("people.user")} name="user" hint=${t("keys.user_hint")} />`}
        <fieldset><legend>${t("keys.rights")}</legend>
          ${offered.map(scope => html`<label class="check" key=${scope}>
            <input type="checkbox" name="scope" value=${scope} defaultChecked=${true} /> ${t(`scope.${scope}`)}</label>`)}
        </fieldset>
        <${TextField} label=${t("keys.models")} name="models" hint=${t("keys.models_hint")} />
        <${Field} label=${t("keys.expires")}>${field => html`
          <select ...${field} name="lasting">${Object.keys(LASTING).map(each => html`
            <option key=${each} value=${each}>${t(`lasting.${each}`)}</option>`)}</select>`}<//>
        <details class="further"><summary>${t("keys.further")}</summary>
          <${TextField} label=${t("people.note")} name="note" />
          <${TextField} label=${t("call.tags")} name="tags" hint=${t("keys.tags_hint")} />
          <${LimitFields} /><${BudgetFields} /></details>
      <//>
    <//>`
}
