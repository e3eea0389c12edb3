"""What Redis runs for a call: each script is one step there, for all subjects of the call together.

They do what :mod:`sage.middleware.limits.local_limiter` does, by the clock of the server. Of each subject there are two
hashes: its window (sums, and of each slot the requests ``r…`` and tokens ``t…``), and how many requests each *holder*
runs. A holder is one connection of one process; it lives while it says so in the sorted set of holders, and what it
held ends with it. All keys expire.
"""

from __future__ import annotations

from sage.middleware.limits.subject_use import SLOT, SPAN

HOLDER_LIVES = 20.0
"""Seconds that a holder lives without a word."""

_WINDOW = """
local SLOT, SPAN, LIVES = %(slot)d, %(span)d, %(lives)d
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slot = math.floor(now / SLOT)
local first = slot - SPAN

local function slots(from, to)
  local fields = {}
  for each = from, to do
    fields[#fields + 1] = 'r' .. each
    fields[#fields + 1] = 't' .. each
  end
  return fields
end

-- The window of the subject, without what is older than a minute.
local function advance(key)
  local head = redis.call('HMGET', key, 'requests', 'tokens', 'oldest', 'newest')
  local use = {requests = tonumber(head[1]), tokens = tonumber(head[2]), oldest = tonumber(head[3])}
  use.newest = tonumber(head[4])
  if not use.newest or use.newest < first then
    redis.call('DEL', key)
    return {requests = 0, tokens = 0, oldest = slot, newest = slot - SPAN - 1}
  end
  if use.oldest < first then
    local fields = slots(use.oldest, first - 1)
    local values = redis.call('HMGET', key, unpack(fields))
    for i = 1, #values, 2 do
      use.requests = use.requests - (tonumber(values[i]) or 0)
      use.tokens = use.tokens - (tonumber(values[i + 1]) or 0)
    end
    redis.call('HDEL', key, unpack(fields))
    use.oldest = first
  end
  return use
end

local function store(key, use)
  redis.call('HSET', key, 'requests', use.requests, 'tokens', use.tokens, 'oldest', use.oldest, 'newest', use.newest)
  redis.call('PEXPIRE', key, (SPAN + 2) * SLOT)
end

local function release(key, holder)
  if redis.call('HINCRBY', key, holder, -1) <= 0 then redis.call('HDEL', key, holder) end
end
"""

_RUNNING = """
local holder = ARGV[1]

local function running(key)
  local sum, counts = 0, redis.call('HGETALL', key)
  for i = 1, #counts, 2 do
    local until_ = counts[i] == holder and now + 1 or tonumber(redis.call('ZSCORE', KEYS[1], counts[i]) or 0)
    if until_ > now then
      sum = sum + counts[i + 1]
    else
      redis.call('HDEL', key, counts[i])
    end
  end
  return sum
end
"""

_READ = """
local reply = {}
for index = 2, #KEYS, 2 do
  local use = advance(KEYS[index])
  if use.newest >= first then store(KEYS[index], use) end
  reply[#reply + 1] = use.requests
  reply[#reply + 1] = use.tokens
  reply[#reply + 1] = running(KEYS[index + 1])
  reply[#reply + 1] = math.max(0, (use.newest + SPAN + 1) * SLOT - now)
end
return reply
"""

_ADMIT = """
local prompt, tokens = tonumber(ARGV[2]), tonumber(ARGV[3])

-- Milliseconds until the window holds no more than that.
local function wait_for(key, use, requests, tokens)
  local values = redis.call('HMGET', key, unpack(slots(use.oldest, use.newest)))
  local left_requests, left_tokens, last = use.requests, use.tokens, use.newest
  for i = 1, #values, 2 do
    if left_requests <= requests and left_tokens <= tokens then break end
    left_requests = left_requests - (tonumber(values[i]) or 0)
    left_tokens = left_tokens - (tonumber(values[i + 1]) or 0)
    last = use.oldest + (i - 1) / 2
  end
  return (last + SPAN + 1) * SLOT - now
end

local count = (#KEYS - 1) / 2
local uses, reply = {}, {1, slot, 0, 0}
for index = 1, count do
  local key = KEYS[index * 2]
  local rpm, tpm, most = tonumber(ARGV[index * 3 + 1]), tonumber(ARGV[index * 3 + 2]), tonumber(ARGV[index * 3 + 3])
  local use = advance(key)
  use.running = running(KEYS[index * 2 + 1])
  uses[index] = use
  local kind, wait = 0, 0
  if most and use.running >= most then
    kind, wait = 3, 1000
  end
  if rpm and use.requests >= rpm then
    kind, wait = 1, wait_for(key, use, rpm - 1, use.tokens)
  end
  if tpm and (use.tokens + tokens > tpm or prompt > tpm) then
    local untill = prompt > tpm and SPAN * SLOT or wait_for(key, use, use.requests, tpm - tokens)
    if untill > wait then kind, wait = 2, untill end
  end
  if kind > 0 and (reply[1] == 1 or wait > reply[4]) then
    reply[1], reply[2], reply[3], reply[4] = 0, index - 1, kind, wait
  end
end
for index = 1, count do
  local use, key = uses[index], KEYS[index * 2]
  if reply[1] == 1 then
    use.requests, use.tokens, use.running, use.newest = use.requests + 1, use.tokens + tokens, use.running + 1, slot
    redis.call('HINCRBY', key, 'r' .. slot, 1)
    if tokens > 0 then redis.call('HINCRBY', key, 't' .. slot, tokens) end
    redis.call('HINCRBY', KEYS[index * 2 + 1], holder, 1)
    redis.call('PEXPIRE', KEYS[index * 2 + 1], LIVES * 3)
    store(key, use)
  elseif use.newest >= first then
    store(key, use)
  end
  reply[#reply + 1] = use.requests
  reply[#reply + 1] = use.tokens
  reply[#reply + 1] = use.running
  reply[#reply + 1] = math.max(0, (use.newest + SPAN + 1) * SLOT - now)
end
return reply
"""

_GIVE_BACK = """
local holder, taken, requests, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for index = 1, #KEYS, 2 do
  local key = KEYS[index]
  release(KEYS[index + 1], holder)
  if requests ~= 0 or tokens ~= 0 then
    local use = advance(key)
    local less = math.min(tokens, 0)
    if taken >= first and redis.call('HEXISTS', key, 'r' .. taken) == 1 then
      redis.call('HINCRBY', key, 'r' .. taken, requests)
      redis.call('HINCRBY', key, 't' .. taken, less)
      use.requests, use.tokens = use.requests + requests, use.tokens + less
    end
    if tokens > 0 then
      redis.call('HINCRBY', key, 't' .. slot, tokens)
      use.tokens, use.newest = use.tokens + tokens, slot
    end
    if use.newest >= first then store(key, use) end
  end
end
return 1
"""

_BEGIN = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + LIVES, ARGV[2])
redis.call('PEXPIRE', KEYS[1], LIVES * 3)
for index = 2, #KEYS do
  redis.call('HDEL', KEYS[index], ARGV[1])
  redis.call('HSET', KEYS[index], ARGV[2], ARGV[index + 1])
  redis.call('PEXPIRE', KEYS[index], LIVES * 3)
end
return 1
"""

_STAY = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= now then return 0 end
redis.call('ZADD', KEYS[1], now + LIVES, ARGV[1])
redis.call('PEXPIRE', KEYS[1], LIVES * 3)
for index = 2, #KEYS do redis.call('PEXPIRE', KEYS[index], LIVES * 3) end
return 1
"""


def _script(body: str) -> bytes:
    facts = {"slot": round(SLOT * 1000), "span": SPAN, "lives": round(HOLDER_LIVES * 1000)}
    return (_WINDOW % facts + body).encode()


ADMIT = _script(_RUNNING + _ADMIT)
"""Keys: the holders; of each subject its window and its running requests. Arguments: the holder, tokens of the prompt,
tokens to take; of each subject requests, tokens and running requests that it may have, empty where there is no bound.

Answers ``1, slot, 0, 0`` or ``0, index of the subject, kind of the limit, milliseconds to wait``, then of each subject
its requests, tokens, running requests, and the milliseconds until its window is empty."""
READ = _script(_RUNNING + _READ)
"""Keys: the holders; of each subject its window and its running requests. Argument: the holder. Answers, of each
subject, its requests, tokens, running requests, and the milliseconds until its window is empty."""
GIVE_BACK = _script(_GIVE_BACK)
"""Keys: of each subject its window and its running requests. Arguments: the holder, the slot in which the call took,
the requests and the tokens that it took too few (a negative number: too many)."""
BEGIN = _script(_BEGIN)
"""A holder follows another of its process. Keys: the holders, running requests of subjects. Arguments: the one before,
the new one, and how many requests it runs of each subject."""
STAY = _script(_STAY)
"""A holder lives on. Keys: the holders, running requests of subjects that it has some of. Argument: the holder. Answers
0 if it had been given up."""
KINDS = ("", "requests", "tokens", "concurrent")
"""Of limits, by their number."""
