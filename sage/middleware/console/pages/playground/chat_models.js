/** Which models answer chats: by their names, since no list of a provider tells. */
const NOT_FOR_CHAT = /embed|rerank|minilm|-e5-|bge-|whisper|tts|moderation|dall-e|gpt-image/i

/** Names of models that can answer, those for chats first. */
export function chatModels(models) {
  const names = models.filter(model => model.deployments.length > 0).map(model => model.name)
  return [...names.filter(name => !NOT_FOR_CHAT.test(name)), ...names.filter(name => NOT_FOR_CHAT.test(name))]
}
