/** Making an API key; its secret is shown this once. */
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {Failure} from "../../components/notice.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {me} from "../../core/session.js"

const LASTING = {never: null, week: 7, month: 30, year: 365}
const NOT_OFFERED = ["admin", "tenant:admin", "worker"] // a key gets them only by the API or the command line

export function NewKey({onClose}) {
  const [made, setMade] = useState(null)
  const [error, setError] = useState(undefined)
  const offered = (me.peek()?.scopes ?? []).filter(scope => !NOT_OFFERED.includes(scope))
  const make = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    const days = LASTING[form.get("lasting")]
    const models = String(form.get("models")).split(/[\s,]+/).filter(Boolean)
    try {
      setMade(await post("/auth/keys", {
        name: form.get("name"),
        scopes: form.getAll("scope"),
        ...(models.length > 0 ? {models} : {}),
        ...(days ? {expires_at: Math.floor(Date.now() / 1000) + days * 86_400} : {}),
      }))
    } catch (failed) {
      setError(failed)
    }
  }
  if (made) {
    return html`
      <${Dialog} title=${t("keys.made")} onClose=${onClose}>
        <p>${t("keys.made_hint")}</p>
        <${CodeBlock} language=${t("keys.key")} text=${made.key} />
        <div class="actions"><button class="primary" onClick=${onClose}>${t("keys.saved")}</button></div>
      <//>`
  }
  return html`
    <${Dialog} title=${t("keys.make")} onClose=${onClose}>
      <form onSubmit=${make}>
        <${Field} label=${t("keys.name")} hint=${t("keys.name_hint")}>${field => html`<input ...${field} name="name" maxlength="100" />`}<//>
        <fieldset><legend>${t("keys.rights")}</legend>
          ${offered.map(scope => html`<label class="check" key=${scope}>
            <input type="checkbox" name="scope" value=${scope} defaultChecked=${true} checked /> ${t(`scope.${scope}`)}</label>`)}
        </fieldset>
        <${Field} label=${t("keys.models")} hint=${t("keys.models_hint")}>${field => html`
          <input ...${field} name="models" spellcheck="false" autocomplete="off" />`}<//>
        <${Field} label=${t("keys.expires")}>${field => html`
          <select ...${field} name="lasting">${Object.keys(LASTING).map(each => html`
            <option key=${each} value=${each}>${t(`lasting.${each}`)}</option>`)}</select>`}<//>
        <${Failure} error=${error} />
        <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
          <button class="primary">${t("keys.make_action")}</button></div>
      </form>
    <//>`
}
