/** A new model over deployments of configured providers. */
import {Dialog} from "../../components/dialog.js"
import {Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {Icon} from "../../components/icon.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {go} from "../../core/router.js"
import {modelPath} from "./model_path.js"

/** @param {{providers: {name: string, kind: string}[], models: any[], onClose: () => void}} properties */
export function Register({providers, models, onClose}) {
  const empty = {provider: providers[0]?.name ?? "", model: "", weight: "", priority: "", input: "", output: ""}
  const [form, setForm] = useState(/** @type {any} */ ({name: "", fallbacks: "", keep_alive: "", max_concurrency: "", pin: false, preload: false}))
  const [deployments, setDeployments] = useState([empty])
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const set = (name, value) => setForm({...form, [name]: value})
  const add = async event => {
    event.preventDefault()
    setBusy(true)
    setError(undefined)
    try {
      const made = await post(modelPath(form.name.trim()), bodyOf(form, deployments))
      onClose()
      go("models", made.name)
    } catch (problem) {
      setError(problem)
      setBusy(false)
    }
  }
  const faultAt = (...places) => places.includes(error?.param) ? error.message : undefined
  const shown = error && [...FIELDS, ...deployments.flatMap((_, index) => OF_DEPLOYMENT.map(name => `deployments.${index}.${name}`))].includes(error.param)
  const input = (name, label, more = {}) => html`
    <${Field} label=${label} hint=${more.hint} error=${faultAt(name)}>${field => html`
      <input ...${field} ...${more.input} name=${name} value=${form[name]} onInput=${event => set(name, event.target.value)} autocomplete="off" spellcheck="false" />`}<//>`
  return html`
    <${Dialog} title=${t("models.add")} onClose=${onClose}>
      <form onSubmit=${add}>
        ${input("name", t("models.name"), {hint: t("models.name_hint"), input: {required: true, maxlength: 256}})}
        ${deployments.map((each, index) => html`
          <${Deployment} key=${index} index=${index} value=${each} providers=${providers} models=${models} faultAt=${faultAt}
            onChange=${next => setDeployments(deployments.with(index, next))}
            onRemove=${deployments.length > 1 && (() => setDeployments(deployments.toSpliced(index, 1)))} />`)}
        <button type="button" class="quiet small" onClick=${() => setDeployments([...deployments, empty])}><${Icon} name="plus" /> ${t("models.add_deployment")}</button>
        <details class="spaced"><summary>${t("models.more")}</summary>
          <div class="pair">
            ${input("fallbacks", t("models.fallbacks"), {hint: t("models.fallbacks_hint")})}
            ${input("max_concurrency", t("models.max_concurrency"), {input: {type: "number", min: 1, step: 1}})}
            ${input("keep_alive", t("models.keep_alive"), {hint: "10m", input: {placeholder: ""}})}
          </div>
          ${["pin", "preload"].map(name => html`<label class="check" key=${name}><input type="checkbox" checked=${form[name]} onChange=${event => set(name, event.target.checked)} /> ${t(`models.${name}`)}</label>`)}
        </details>
        <${Failure} error=${shown ? undefined : error} />
        <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
          <button class="primary" disabled=${busy}>${t("models.add")}</button></div>
      </form>
    <//>`
}

const FIELDS = ["name", "fallbacks", "keep_alive", "max_concurrency"]
const OF_DEPLOYMENT = ["provider", "model", "weight", "priority", "price.input", "price.output"]

function Deployment({index, value, providers, models, faultAt, onChange, onRemove}) {
  const place = `deployments.${index}`
  const set = (name, text) => onChange({...value, [name]: text})
  const input = (name, label, more = {}, at = name) => html`
    <${Field} label=${label} error=${faultAt(`${place}.${at}`)}>${field => html`
      <input ...${field} ...${more} name=${`${name}-${index}`} value=${value[name]} onInput=${event => set(name, event.target.value)} autocomplete="off" spellcheck="false" />`}<//>`
  const known = [...new Set(models.flatMap(each => each.deployments).filter(each => each.provider === value.provider).map(each => each.model))]
  return html`
    <fieldset class="deployment"><legend>${t("models.deployment_number", {number: index + 1})}</legend>
      <div class="pair">
        <${Field} label=${t("models.provider")} error=${faultAt(`${place}.provider`)}>${field => html`
          <select ...${field} name=${`provider-${index}`} value=${value.provider} onChange=${event => set("provider", event.target.value)}>
            ${providers.map(({name, kind}) => html`<option key=${name} value=${name}>${name === kind ? name : `${name} (${kind})`}</option>`)}</select>`}<//>
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

const given = fields => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== false))
const asNumber = text => text === "" ? "" : Number(text)

function bodyOf(form, deployments) {
  return given({
    deployments: deployments.map(({provider, model, weight, priority, input, output}) => {
      const price = given({input: asNumber(input), output: asNumber(output)})
      return given({provider, model: model.trim(), weight: asNumber(weight), priority: asNumber(priority), price: Object.keys(price).length > 0 ? price : ""})
    }),
    fallbacks: form.fallbacks.trim() ? form.fallbacks.split(",").map(name => name.trim()).filter(Boolean) : "",
    keep_alive: form.keep_alive.trim(),
    max_concurrency: asNumber(form.max_concurrency),
    pin: form.pin,
    preload: form.preload,
  })
}
