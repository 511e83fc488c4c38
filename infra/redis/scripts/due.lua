-- Moves what is due, by Redis' own clock: parked retries go to their group's retry
-- stream, scheduled messages are published. What somebody has to decide on is handed
-- to the caller, and set aside for a moment so that instances do not all decide the
-- same: leases that ran out, ticks of recurring schedules, dead letters that are to be
-- published to another queue.
--
-- Members of the due set: r|… retries, s|… scheduled messages, l|… leases and x|…
-- leases that ran out (these cannot be extended, for a decision is under way), c|…
-- recurring schedules, d|… dead letters.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, items at most, ms for which what is handed out is set aside, bytes
--          at most
--
-- Where the clock went back since a call before, what was to wait for a while waits for that
-- while and no longer: leases, retries, and what was set aside. Times of day stay.
--
-- Answers {now, next due time or -1,
--   {{subscription, topic, group, stream, entry, consumer, leased at, fields without
--     the payload, attempts before}…},
--   {{schedule, tick, state}…}, {{member, event, stream, entry, fields}…}}.
local due, most, aside = KEYS[1], ARGV[2], tonumber(ARGV[3])
local bytes, bytes_most = 0, tonumber(ARGV[4])
local now = clock()
local expired, ticks, forwards = {}, {}, {}
local last

-- By how many ms the clock goes back before it counts: servers' clocks are set right by less.
-- It is also how often it is noted.
local CLOCK_STEP = 1000

local function follow_clock()
  local key = prefix .. 'clock'
  local seen = tonumber(redis.call('GET', key) or '0')
  if now >= seen and now - seen < CLOCK_STEP then return end
  local back = seen - now
  if back > 0 and back < CLOCK_STEP then return end
  redis.call('SET', key, int(now))
  if back < CLOCK_STEP then return end
  local moved, from = {}, 0
  repeat
    local page = redis.call('ZRANGE', due, from, from + 999, 'WITHSCORES')
    for k = 1, #page, 2 do
      local kind, score = string.sub(page[k], 1, 1), tonumber(page[k + 1])
      if kind == 'c' then
        local at = redis.call('HGET', prefix .. 'schedule:' .. string.sub(page[k], 3), 'n')
        if at and tonumber(at) < score then page[k + 1] = at else page[k + 1] = false end
      elseif kind ~= 's' then
        page[k + 1] = int(score - back)
      else
        page[k + 1] = false
      end
    end
    moved[#moved + 1] = page
    from = from + 1000
  until #page < 2000
  for _, one in ipairs(moved) do
    for k = 1, #one, 2 do
      if one[k + 1] then redis.call('ZADD', due, one[k + 1], one[k]) end
    end
  end
end

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
    wakeup('r ' .. topic .. ' ' .. group)
  end
end

-- Notes where the oldest message was scheduled of those that a partition's stream may
-- still hold.
local function note_released(topic, partition, accepted, offset)
  local hash, field = prefix .. 'topic:' .. topic, 'sp:' .. partition
  local oldest, newest = string.match(redis.call('HGET', hash, field) or '', '^(.-)|(.+)$')
  if oldest then
    local head = redis.call('XRANGE', prefix .. 'q:' .. topic .. ':' .. partition, '-', '+', 'COUNT', 1)[1]
    local is_gone = tonumber(newest) < tonumber(string.match(head[1], '%-(%d+)$')) - 1
    if not is_gone and before(oldest, accepted) then accepted = oldest end
  end
  redis.call('HSET', hash, field, accepted .. '|' .. int(offset))
end

-- Publishes a scheduled message: the event of its release and the message itself.
local function publish(member)
  local topic, message = string.match(member, '^s|(.-)|(.+)$')
  local packed = redis.call('HGET', prefix .. 'scheduled:' .. topic, message)
  redis.call('ZREM', due, member)
  redis.call('HDEL', prefix .. 'scheduled', message)
  if not packed then return end
  redis.call('HDEL', prefix .. 'scheduled:' .. topic, message)
  local accepted, partition, meta, payload, uuid, event_meta, head, tail = unpack(cmsgpack.unpack(packed))
  bytes = bytes + #payload
  local hash = prefix .. 'topic:' .. topic
  local offset = redis.call('HINCRBY', hash, 'o:' .. partition, 1) - 1
  local pos = redis.call('XADD', prefix .. 'log', '*', UUID, uuid, META, event_meta, DATA, head .. tail .. int(offset) .. '}')
  redis.call('XADD', prefix .. 'q:' .. topic .. ':' .. partition, '0-' .. int(offset + 1),
    UUID, message, META, meta, DATA, payload, 'pos', pos, 'sched', accepted)
  last = pos
  note_released(topic, partition, accepted, offset)
  redis.call('HINCRBY', hash, 'n', 1)
  redis.call('HINCRBY', hash, 'sc', -1)
  wakeup('q ' .. topic)
end

local function tick(member)
  local id = string.sub(member, 3)
  local h = redis.call('HMGET', prefix .. 'schedule:' .. id, 'n', 's')
  if not h[1] then return redis.call('ZREM', due, member) end
  redis.call('ZADD', due, now + aside, member)
  ticks[#ticks + 1] = { id, tonumber(h[1]), h[2] }
end

local function forward(member)
  local packed = redis.call('HGET', prefix .. 'outbox', member)
  if not packed then return redis.call('ZREM', due, member) end
  redis.call('ZADD', due, now + aside, member)
  bytes = bytes + #packed
  local event, stream, entry, fields = unpack(cmsgpack.unpack(packed))
  forwards[#forwards + 1] = { member, event, stream, entry, fields }
end

local function expire(member)
  local sub, topic, group, stream, entry = string.match(member, '^[lx]|(.-)|(.-)|(.-)|(.-)|(.-)$')
  local key = stream_key(topic, group, stream)
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
  expired[#expired + 1] = { sub, topic, group, stream, entry, pending[1][2], now - pending[1][3], fields,
    attempts_before(topic, group) }
end

follow_clock()
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, most)) do
  local kind = string.sub(member, 1, 1)
  if kind == 'r' then
    release(member)
  elseif kind == 's' then
    publish(member)
  elseif kind == 'c' then
    tick(member)
  elseif kind == 'd' then
    forward(member)
  else
    expire(member)
  end
  if bytes >= bytes_most then break end
end
if last then leave_room(prefix .. 'log', last) end
send_wakeups()
local head = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return { now, head[2] and tonumber(head[2]) or -1, expired, ticks, forwards }
