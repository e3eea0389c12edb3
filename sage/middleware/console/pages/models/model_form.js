/** The form of a model over deployments of configured providers. */
import {Dialog} from "../../components/dialog.js"
import {Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {Icon} from "../../components/icon.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {FLAGS, emptyDeployment} from "./registration.js"

const FIELDS = ["name", "fallbacks", "keep_alive", "max_concurrency", "retries"]
const OF_DEPLOYMENT = ["provider", "model", "weight", "priority", "price.input", "price.output"]

/**
 * @param {object} properties
 * @param {string} properties.title
 * @param {string} properties.action what the button says
 * @param {any} properties.fields what stands in the form at first
 * @param {string} [properties.named] the name of a model that has one
 * @param {{name: string, kind: string}[]} properties.providers
 * @param {any[]} properties.models what is known, to choose from
 * @param {(form: any) => Promise<void>} properties.send
 * @param {() => void} properties.onClose
 */
export function ModelForm({title, action, fields, named, providers, models, send, onClose}) {
  const [form, setForm] = useState(fields)
  const [error, setError] = useState(/** @type {any} */ (undefined))
  const [busy, setBusy] = useState(false)
  const set = (name, value) => setForm(before => ({...before, [name]: value}))
  const submit = async event => {
    event.preventDefault()
    setBusy(true)
    setError(undefined)
    try { await send(form) } catch (problem) { setError(problem) }
    setBusy(false)
  }
  const deployments = form.deployments
  const faultAt = (...places) => places.includes(error?.param) ? error.message : undefined
  const shown = error && [...FIELDS, ...deployments.flatMap((_, index) => OF_DEPLOYMENT.map(name => `deployments.${index}.${name}`))].includes(error.param)
  const input = (name, label, more = {}) => html`
    <${Field} label=${label} hint=${more.hint} error=${faultAt(name)}>${field => html`
      <input ...${field} ...${more.input} name=${name} value=${form[name]} onInput=${event => set(name, event.target.value)} autocomplete="off" spellcheck="false" />`}<//>`
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <form onSubmit=${submit}>
        ${named === undefined ? input("name", t("models.name"), {hint: t("models.name_hint"), input: {required: true, maxlength: 256}}) : html`<p class="dim">${t("models.edit_hint")} ${t("models.name_stays")}</p>`}
        ${deployments.map((each, index) => html`
          <${Deployment} key=${index} index=${index} value=${each} providers=${providers} models=${models} faultAt=${faultAt}
            onChange=${next => set("deployments", deployments.with(index, next))}
            onRemove=${deployments.length > 1 && (() => set("deployments", deployments.toSpliced(index, 1)))} />`)}
        <button type="button" class="quiet small" onClick=${() => set("deployments", [...deployments, emptyDeployment(providers[0]?.name ?? "")])}><${Icon} name="plus" /> ${t("models.add_deployment")}</button>
        <details class="spaced" open=${named !== undefined}><summary>${t("models.more")}</summary>
          <div class="pair">
            ${input("fallbacks", t("models.fallbacks"), {hint: t("models.fallbacks_hint")})}
            ${input("keep_alive", t("models.keep_alive"), {hint: "10m"})}
            ${input("max_concurrency", t("models.max_concurrency"), {input: {type: "number", min: 1, step: 1}})}
            ${input("retries", t("models.retries"), {input: {type: "number", min: 0, max: 2, step: 1, placeholder: "2"}})}
          </div>
          ${FLAGS.map(name => html`<label class="check" key=${name}><input type="checkbox" name=${name} checked=${form[name]} onChange=${event => set(name, event.target.checked)} /> ${t(`models.${name}`)}</label>`)}
        </details>
        <${Failure} error=${shown ? undefined : error} />
        <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
          <button class="primary" disabled=${busy}>${action}</button></div>
      </form>
    <//>`
}

function Deployment({index, value, providers, models, faultAt, onChange, onRemove}) {
  const place = `deployments.${index}`
  const set = (name, text) => onChange({...value, [name]: text})
  const input = (name, label, more = {}, at = name) => html`
    <${Field} label=${label} error=${faultAt(`${place}.${at}`)}>${field => html`
      <input ...${field} ...${more} name=${`${name}-${index}`} value=${value[name]} onInput=${event => set(name, event.target.value)} autocomplete="off" spellcheck="false" />`}<//>`
  const known = [...new Set(models.flatMap(each => each.deployments).filter(each => each.provider === value.provider).map(each => each.model))].slice(0, 200)
  const choices = providers.some(each => each.name === value.provider) ? providers : [{name: value.provider, kind: value.provider}, ...providers]
  return html`
    <fieldset class="deployment"><legend>${t("models.deployment_number", {number: index + 1})}</legend>
      <div class="pair">
        <${Field} label=${t("models.provider")} error=${faultAt(`${place}.provider`)}>${field => html`
          <select ...${field} name=${`provider-${index}`} value=${value.provider} onChange=${event => set("provider", event.target.value)}>
            ${choices.map(({name, kind}) => html`<option key=${name} value=${name}>${name === kind ? name : `${name} (${kind})`}</option>`)}</select>`}<//>
        ${input("model", t("models.model_there"), {required: true, list: `known-${index}`})}
        <datalist id=${`known-${index}`}>${known.map(name => html`<option key=${name} value=${name} />`)}</datalist>
        ${input("weight", t("models.weight"), {type: "number", min: 0, step: "any", placeholder: "1"})}
        ${input("priority", t("models.priority"), {type: "number", min: 0, step: 1, placeholder: "0"})}
        ${input("input", t("models.price_input"), {type: "number", min: 0, step: "any"}, "price.input")}
        ${input("output", t("models.price_output"), {type: "number", min: 0, step: "any"}, "price.output")}
      </div>
      ${onRemove && html`<button type="button" class="quiet small" onClick=${onRemove}>${t("action.remove")}</button>`}
    </fieldset>`
}
