-- Moves what is due, by Redis' own clock: parked retries go to their group's
-- retry stream; leases that ran out are handed to the caller to decide on, and
-- set aside for a moment so that instances do not all decide the same ones.
--
-- A lease is 'l|…' in the due set, and 'x|…' once it ran out: from then on it
-- cannot be extended, for a decision on it is under way.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, items at most, ms for which an expired lease is set aside,
--          bytes at most
--
-- Answers {now, next due time or -1, {{subscription, topic, group, stream, entry,
-- consumer, leased at, fields without the payload}…}}.
local due, prefix, most, aside = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local bytes, bytes_most = 0, tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local expired, woken, wake = {}, {}, {}

local function release(member)
  local topic, group, begun = string.match(member, '^r|(.-)|(.-)|(.-)|')
  local packed = redis.call('HGET', prefix .. 'parked:' .. topic .. ':' .. group, member)
  bytes = bytes + (packed and #packed or 0)
  local key = prefix .. 'retry:' .. topic .. ':' .. group
  redis.call('HDEL', prefix .. 'parked:' .. topic .. ':' .. group, member)
  redis.call('ZREM', due, member)
  if not packed or redis.call('EXISTS', key) == 0 then return end
  -- Void where the group began anew, and not counted as waiting any more.
  if (redis.call('HGET', prefix .. 'topic:' .. topic, 'g:' .. group) or '0') == begun then
    redis.call('XADD', key, '*', unpack(cmsgpack.unpack(packed)))
    redis.call('HINCRBY', prefix .. 'waiting:' .. topic, group, -1)
    local line = 'r ' .. topic .. ' ' .. group
    if not woken[line] then
      woken[line] = true
      wake[#wake + 1] = line
    end
  end
end

local function expire(member)
  local sub, topic, group, stream, entry = string.match(member, '^[lx]|(.-)|(.-)|(.-)|(.-)|(.-)$')
  local key = prefix .. 'q:' .. topic .. ':' .. stream
  if stream == '-1' then key = prefix .. 'retry:' .. topic .. ':' .. group end
  local pending = redis.pcall('XPENDING', key, group, entry, entry, 1)
  local entries = redis.call('XRANGE', key, entry, entry)
  if pending.err or #pending == 0 or #entries == 0 then
    redis.call('ZREM', due, member)
    if not pending.err and #pending > 0 then redis.call('XACK', key, group, entry) end
    return
  end
  redis.call('ZREM', due, member)
  redis.call('ZADD', due, now + aside, 'x' .. string.sub(member, 2))
  -- Whoever decides does not look at the payload, the sixth field.
  local fields = entries[1][2]
  bytes = bytes + #fields[6]
  fields[6] = ''
  expired[#expired + 1] = { sub, topic, group, stream, entry, pending[1][2], now - pending[1][3], fields }
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, most)) do
  if string.sub(member, 1, 1) == 'r' then release(member) else expire(member) end
  if bytes >= bytes_most then break end
end
if #wake > 0 then
  redis.call('PUBLISH', prefix .. 'wake', table.concat(wake, '\n'))
end
local head = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return { now, head[2] and tonumber(head[2]) or -1, expired }
