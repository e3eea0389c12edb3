/** A model's registration as the fields of a form, and the other way round. */
import {valueText} from "../settings/value.js"

/** @typedef {{provider: string, model: string, weight: string, priority: string, input: string, output: string, rest?: any}} DeploymentFields */

/** @returns {DeploymentFields} */
export const emptyDeployment = provider => ({provider, model: "", weight: "", priority: "", input: "", output: ""})

/** The fields of a registration; what has no field of its own is kept in `rest`. */
export function fieldsOf(/** @type {any} */ registration, /** @type {string} */ provider) {
  const {deployments, fallbacks = [], keep_alive: idle, max_concurrency: most, retries, ...flags} = registration
  return {
    name: "",
    deployments: deployments?.map(deploymentFields) ?? [emptyDeployment(provider)],
    fallbacks: fallbacks.join(", "),
    keep_alive: typeof idle === "number" ? valueText(idle, "seconds") : "",
    max_concurrency: asText(most),
    retries: asText(retries),
    ...Object.fromEntries(FLAGS.map(name => [name, flags[name] === true])),
  }
}

export const FLAGS = ["pin", "preload", "drop_unsupported"]
const asText = value => value === undefined || value === null ? "" : String(value)
const asNumber = text => text === "" ? "" : Number(text)
const given = fields => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== false))

function deploymentFields(/** @type {any} */ {provider, model, weight, priority, price = {}, ...rest}) {
  const {input, output, ...prices} = price
  return {provider, model, weight: asText(weight), priority: asText(priority), input: asText(input), output: asText(output), rest: {...rest, prices}}
}

/** What registers a model with these fields. */
export function bodyOf(/** @type {any} */ form) {
  return given({
    deployments: form.deployments.map(({provider, model, weight, priority, input, output, rest: {prices, ...rest} = {prices: {}}}) => {
      const price = {...prices, ...given({input, output})}
      return given({...rest, provider, model: model.trim(), weight: asNumber(weight), priority: asNumber(priority), price: Object.keys(price).length > 0 ? price : ""})
    }),
    fallbacks: form.fallbacks.trim() ? form.fallbacks.split(",").map(name => name.trim()).filter(Boolean) : "",
    keep_alive: form.keep_alive.trim(),
    max_concurrency: asNumber(form.max_concurrency),
    retries: asNumber(form.retries),
    ...Object.fromEntries(FLAGS.map(name => [name, form[name]])),
  })
}

/** The fields of a registration that differ, null for one that is to have its default again. */
export function changesOf(/** @type {any} */ before, /** @type {any} */ after) {
  const [old, now] = [bodyOf(before), bodyOf(after)]
  const names = [...new Set([...Object.keys(old), ...Object.keys(now)])]
  return Object.fromEntries(names.filter(name => JSON.stringify(old[name]) !== JSON.stringify(now[name])).map(name => [name, now[name] ?? null]))
}
