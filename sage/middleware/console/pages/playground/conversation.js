/**
 * What is said on the playground. It stays while the console is open, also while another page is shown, and ends with
 * the user's session.
 */
import {effect, signal} from "../../core/html.js"
import {me} from "../../core/session.js"
import {ask} from "./call.js"

/**
 * @typedef {{id: string, name: string, arguments: string, result?: string}} ToolCall
 * @typedef {{name: string, type: string, size: number, url: string, shrunk?: string}} Picture `url` is a data URL, `shrunk` says how the picture was made smaller
 * @typedef {object} Answer what a model said, and what it took
 * @property {string} model
 * @property {string} text
 * @property {string} reasoning
 * @property {ToolCall[]} calls of the user's own tools; with a `result` each, the model goes on
 * @property {any[]} runs of tools that the gateway ran itself
 * @property {any[] | undefined} sources
 * @property {any[] | undefined} memories
 * @property {string[]} warnings
 * @property {string} finish
 * @property {Error | undefined} error
 * @property {boolean} done
 * @property {boolean} stopped
 * @property {any} facts
 *
 * @typedef {{id: number, question: string, pictures: Picture[], sides: Answer[][]}} Turn a side is a model; it has
 *   further answers after the results of tools
 */

const NOTHING = {
  ...{system: "", temperature: "", top_p: "", max_tokens: "", seed: "", stop: "", frequency_penalty: ""},
  ...{presence_penalty: "", reasoning_effort: "", format: "", schema: "", tools: "", tool_choice: "", mcp: []},
  ...{collection: "", top_k: "", mode: "", session: "", user: "", recall: true, store: true},
}

/** `chosen` names the model of each side. */
export const talk = signal({chosen: /** @type {string[]} */ ([]), options: NOTHING, turns: /** @type {Turn[]} */ ([])})
/** What stops the answers that come in; null while none does. */
export const running = signal(/** @type {AbortController | null} */ (null))
let made = 0
let owner = me.peek()?.user

effect(() => {
  const user = me.value?.user
  if (user === owner) return
  owner = user
  running.peek()?.abort()
  talk.value = {chosen: [], options: NOTHING, turns: []}
})

const change = fields => { talk.value = {...talk.peek(), ...fields} }
export const choose = chosen => change({chosen})
export const setOption = (name, value) => change({options: {...talk.peek().options, [name]: value}})
export const clear = () => { running.peek()?.abort(); change({turns: []}) }

/**
 * Asks the chosen models. With `instead`, a turn of before, that one and all after it are dropped.
 * @param {string} question
 * @param {Picture[]} pictures
 * @param {Turn} [instead]
 */
export function send(question, pictures, instead) {
  const {chosen, turns} = talk.peek()
  const earlier = instead ? turns.slice(0, turns.findIndex(each => each.id === instead.id)) : turns
  const turn = {id: (made += 1), question, pictures, sides: chosen.map(() => [])}
  change({turns: [...earlier, turn]})
  return answers(turn, turn.sides.map((_, side) => side))
}

/** Gives the results of the tools that the model of `side` called, and lets it go on. */
export function goOn(turn, side, results) {
  turn.sides[side].at(-1).calls.forEach((call, index) => { call.result = results[index] })
  return answers(turn, [side])
}

async function answers(turn, sides) {
  const stop = new AbortController()
  running.value = stop
  const {chosen, options, turns} = talk.peek()
  await Promise.all(sides.map(side => {
    const model = turn.sides[side].at(-1)?.model ?? chosen[side]
    const answer = {model, text: "", reasoning: "", calls: [], runs: [], warnings: [], finish: "", done: false,
      stopped: false, facts: {}}
    const body = chatBody({turns, side, options, model})
    turn.sides[side].push(answer)
    return ask({answer, body, stop: stop.signal, show: () => show(turn)})
  }))
  if (running.peek() === stop) running.value = null
}

/** Draws `turn` anew. */
function show(turn) {
  const turns = talk.peek().turns
  const at = turns.findIndex(each => each.id === turn.id)
  if (at >= 0) change({turns: turns.with(at, {...turn})})
}

/** Whether a model waits for results of tools, so that no question can follow. */
export const waitsForTools = turns =>
  turns.at(-1)?.sides.some(answers => answers.at(-1)?.calls.some(call => call.result === undefined)) ?? false

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty"]

/** The body of the request that asks `model`, on `side`, the last of `turns`. */
export function chatBody({turns, side, options, model}) {
  const body = {model, messages: messagesOf(turns, side, options.system)}
  for (const name of NUMBERS) if (options[name] !== "") body[name] = Number(options[name])
  if (options.stop) body.stop = options.stop.split("\n").filter(Boolean)
  if (options.reasoning_effort) body.reasoning_effort = options.reasoning_effort
  if (options.format === "json_object") body.response_format = {type: "json_object"}
  if (options.format === "json_schema") body.response_format = {type: "json_schema", json_schema: {name: "answer", schema: JSON.parse(options.schema)}}
  if (options.tools.trim()) body.tools = JSON.parse(options.tools)
  if (options.tools.trim() && options.tool_choice) body.tool_choice = options.tool_choice
  if (options.mcp.length > 0) body.mcp = options.mcp
  if (options.collection) body.search = given({collection: options.collection, top_k: Number(options.top_k) || "", mode: options.mode})
  if (options.session) {
    body.memory = given({session_id: options.session, user: options.user})
    for (const name of ["recall", "store"]) if (!options[name]) body.memory[name] = false
  }
  return body
}

const given = fields => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""))

function messagesOf(turns, side, system) {
  const messages = system.trim() ? [{role: "system", content: system.trim()}] : []
  for (const turn of turns) {
    const said = turn.sides[Math.min(side, turn.sides.length - 1)].flatMap(messagesOfAnswer)
    if (said.length > 0 || turn === turns.at(-1)) messages.push({role: "user", content: contentOf(turn)}, ...said)
  }
  return messages
}

/** The text; with pictures the parts that OpenAI's wire has for them. */
function contentOf({question, pictures}) {
  if (pictures.length === 0) return question
  const parts = pictures.map(({url}) => ({type: "image_url", image_url: {url}}))
  return question ? [{type: "text", text: question}, ...parts] : parts
}

function messagesOfAnswer({text, calls}) {
  if (calls.length === 0) return text ? [{role: "assistant", content: text}] : []
  const tool_calls = calls.map(call => ({id: call.id, type: "function", function: {name: call.name, arguments: call.arguments}}))
  const results = calls.map(call => ({role: "tool", tool_call_id: call.id, content: call.result ?? ""}))
  return [{role: "assistant", content: text || null, tool_calls}, ...results]
}
