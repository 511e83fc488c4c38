-- Appends events to a shard's log and folds their effect on delivery, in one
-- atomic step. A call carries many operations; each is checked and applied on its
-- own and reports its own outcome.
--
-- KEYS[1]  the shard's log; every other key is made from the shard's prefix and
--          shares its hash tag
-- ARGV[1]  the shard's prefix
-- ARGV[2]  finished entries kept per partition for late readers
-- ARGV[3…] operations: a letter and a fixed number of arguments each
--
-- Every operation answers {status, position, id, offset, partition}.
local OK, DUPLICATE, STALE, LOST, REUSED, EXISTS, ABORTED = 0, 1, 2, 3, 4, 5, 6
local UUID, META, DATA = '_watermill_message_uuid', 'metadata', 'payload'

local log, prefix, keep = KEYS[1], ARGV[1], tonumber(ARGV[2])
local wake, wakes = {}, {}
local versions = {}
local last
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function wakeup(line)
  if not wakes[line] then
    wakes[line] = true
    wake[#wake + 1] = line
  end
end

local function topic_version(id)
  local v = versions[id]
  if not v then
    v = redis.call('HGET', prefix .. 'topic:' .. id, 'v') or '0'
    versions[id] = v
  end
  return v
end

local function stream_key(topic, group, stream)
  if stream == '-1' then
    return prefix .. 'retry:' .. topic .. ':' .. group
  end
  return prefix .. 'q:' .. topic .. ':' .. stream
end

local function record(uuid, meta, data)
  last = redis.call('XADD', log, '*', UUID, uuid, META, meta, DATA, data)
  return last
end

-- Idempotency: what a key did before, or nil. The stored value is
-- fingerprint|position|id|offset|partition.
local function remembered(key, fingerprint)
  if key == '' then return nil end
  local value = redis.call('GET', prefix .. 'idem:' .. key)
  if not value then return nil end
  local f, pos, id, offset, partition = string.match(value, '^(.-)|(.-)|(.-)|(.-)|(.-)$')
  if f ~= fingerprint then
    return { REUSED, pos, id, 0, 0 }
  end
  return { DUPLICATE, pos, id, tonumber(offset), tonumber(partition) }
end

local function remember(key, fingerprint, ttl, pos, id, offset, partition)
  if key ~= '' then
    redis.call('SET', prefix .. 'idem:' .. key,
      table.concat({ fingerprint, pos, id, offset, partition }, '|'), 'PX', ttl)
  end
end

-- Trims a partition below what every group has finished, but for the newest keep
-- entries. It runs once in a thousand settlements, so it costs next to nothing.
local function trim(topic, partition)
  local key = prefix .. 'q:' .. topic .. ':' .. partition
  local nxt = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'o:' .. partition) or '0')
  local floor = nxt - keep
  if floor <= 0 then return end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local g = {}
    for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
    local finished = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$'))
    if tonumber(g['pending']) > 0 then
      finished = tonumber(string.match(redis.call('XPENDING', key, g['name'])[2], '%-(%d+)$')) - 1
    end
    if finished < floor then floor = finished end
  end
  redis.call('XTRIM', key, 'MINID', '~', '0-' .. string.format('%d', floor + 1))
end

-- Ends a lease: true where the entry was still pending. An entry is one attempt,
-- so this is also the fence.
local function settle(topic, group, stream, entry, sub)
  local key = stream_key(topic, group, stream)
  if redis.call('EXISTS', key) == 0 or redis.call('XACK', key, group, entry) == 0 then
    return false
  end
  local lease = table.concat({ sub, topic, group, stream, entry }, '|')
  redis.call('ZREM', prefix .. 'due', 'l|' .. lease, 'x|' .. lease)
  if stream == '-1' then
    redis.call('XDEL', key, entry)
  else
    local n = redis.call('HINCRBY', prefix .. 'topic:' .. topic, 'a:' .. stream, 1)
    if n % 1000 == 0 then trim(topic, stream) end
  end
  return true
end

-- Publish: topic, topic version, partition, idempotency key, fingerprint, ttl,
-- uuid, event metadata, event head, payload, event tail, delivery metadata
local PUBLISH_ARGS = 12
local function publish_refused(i)
  local before = remembered(ARGV[i + 3], ARGV[i + 4])
  if before then return before end
  if topic_version(ARGV[i]) ~= ARGV[i + 1] then
    return { STALE, '', ARGV[i + 6], 0, 0 }
  end
  return nil
end

local function publish_apply(i)
  local topic, partition, uuid, payload = ARGV[i], ARGV[i + 2], ARGV[i + 6], ARGV[i + 9]
  local nxt = redis.call('HINCRBY', prefix .. 'topic:' .. topic, 'o:' .. partition, 1)
  local pos = record(uuid, ARGV[i + 7],
    ARGV[i + 8] .. payload .. ARGV[i + 10] .. string.format('%d}', nxt - 1))
  redis.call('XADD', prefix .. 'q:' .. topic .. ':' .. partition, '0-' .. string.format('%d', nxt),
    UUID, uuid, META, ARGV[i + 11], DATA, payload, 'pos', pos)
  remember(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], pos, uuid, string.format('%d', nxt - 1), partition)
  wakeup('q ' .. topic)
  return { OK, pos, uuid, nxt - 1, tonumber(partition) }
end

local ops = {}

ops.P = function(i)
  return publish_refused(i) or publish_apply(i), i + PUBLISH_ARGS
end

-- Topic: id, version, state, unique name, idempotency key, fingerprint, ttl,
-- uuid, metadata, event
ops.T = function(i)
  local id = ARGV[i]
  local before = remembered(ARGV[i + 4], ARGV[i + 5])
  if before then return before, i + 10 end
  local holder = redis.call('HGET', prefix .. 'names', ARGV[i + 3])
  if holder then return { EXISTS, '', holder, 0, 0 }, i + 10 end
  redis.call('HSET', prefix .. 'names', ARGV[i + 3], id)
  redis.call('HSET', prefix .. 'topic:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2])
  versions[id] = nil
  local pos = record(ARGV[i + 7], ARGV[i + 8], ARGV[i + 9])
  remember(ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], pos, id, '0', '0')
  wakeup('a ' .. id)
  return { OK, pos, id, 0, 0 }, i + 10
end

-- Subscription: id, version, state, topic, topic version, group, unique name,
-- partitions, start, idempotency key, fingerprint, ttl, uuid, metadata, event
ops.S = function(i)
  local id, topic, group = ARGV[i], ARGV[i + 3], ARGV[i + 5]
  local before = remembered(ARGV[i + 9], ARGV[i + 10])
  if before then return before, i + 15 end
  if topic_version(topic) ~= ARGV[i + 4] then return { STALE, '', id, 0, 0 }, i + 15 end
  local names = prefix .. 'subs:' .. topic
  local holder = redis.call('HGET', names, ARGV[i + 6])
  if holder then return { EXISTS, '', holder, 0, 0 }, i + 15 end
  redis.call('HSET', names, ARGV[i + 6], id)
  redis.call('HSET', prefix .. 'sub:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2])
  -- A group that is there already keeps its place: members join, they do not seek.
  for p = 0, tonumber(ARGV[i + 7]) - 1 do
    redis.pcall('XGROUP', 'CREATE', prefix .. 'q:' .. topic .. ':' .. p, group, ARGV[i + 8], 'MKSTREAM')
  end
  redis.pcall('XGROUP', 'CREATE', prefix .. 'retry:' .. topic .. ':' .. group, group, '0', 'MKSTREAM')
  local pos = record(ARGV[i + 12], ARGV[i + 13], ARGV[i + 14])
  remember(ARGV[i + 9], ARGV[i + 10], ARGV[i + 11], pos, id, '0', '0')
  wakeup('a ' .. id)
  return { OK, pos, id, 0, 0 }, i + 15
end

-- Settled for good (consumed, dead-lettered): topic, group, stream, entry,
-- subscription, uuid, metadata, event
ops.K = function(i)
  if not settle(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) then
    return { LOST, '', ARGV[i + 5], 0, 0 }, i + 8
  end
  return { OK, record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]), ARGV[i + 5], 0, 0 }, i + 8
end

-- Failed, to be tried again: topic, group, stream, entry, subscription, delay in
-- ms, next attempt, message, uuid, metadata, event
ops.F = function(i)
  local topic, group, stream, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = stream_key(topic, group, stream)
  local entries = redis.call('XRANGE', key, entry, entry)
  if #entries == 0 or not settle(topic, group, stream, entry, ARGV[i + 4]) then
    return { LOST, '', ARGV[i + 8], 0, 0 }, i + 11
  end
  local f = entries[1][2]
  if stream ~= '-1' then
    f[#f + 1] = 'off'
    f[#f + 1] = string.format('%d', tonumber(string.match(entry, '%-(%d+)$')) - 1)
    f[#f + 1] = 'part'
    f[#f + 1] = stream
    f[#f + 1] = 'att'
    f[#f + 1] = ''
  end
  f[#f] = ARGV[i + 6]
  local delay = tonumber(ARGV[i + 5])
  if delay > 0 then
    local member = table.concat({ 'r', topic, group, ARGV[i + 7] }, '|')
    redis.call('HSET', prefix .. 'parked', member, cmsgpack.pack(f))
    redis.call('HINCRBY', prefix .. 'waiting:' .. topic, group, 1)
    redis.call('ZADD', prefix .. 'due', now + delay, member)
  else
    redis.call('XADD', prefix .. 'retry:' .. topic .. ':' .. group, '*', unpack(f))
    wakeup('r ' .. topic .. ' ' .. group)
  end
  return { OK, record(ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]), ARGV[i + 8], 0, 0 }, i + 11
end

local out, i = {}, 3
while i <= #ARGV do
  local op = ARGV[i]
  if op == 'A' then
    -- All or none of the next n publishes: check every one, then apply.
    local n, first = tonumber(ARGV[i + 1]), i + 2
    local refused = false
    local answers = {}
    for k = 0, n - 1 do
      answers[k] = publish_refused(first + k * (PUBLISH_ARGS + 1) + 1)
      if answers[k] and answers[k][1] ~= DUPLICATE then refused = true end
    end
    for k = 0, n - 1 do
      local at = first + k * (PUBLISH_ARGS + 1) + 1
      if not answers[k] then
        answers[k] = refused and { ABORTED, '', ARGV[at + 6], 0, 0 } or publish_apply(at)
      end
      out[#out + 1] = answers[k]
    end
    i = first + n * (PUBLISH_ARGS + 1)
  else
    out[#out + 1], i = ops[op](i + 1)
  end
end

-- While the clock is behind the log (it was set back), Redis numbers entries on in
-- the last millisecond it knew. A position holds 2^20 of them, so the log goes to
-- the next millisecond well before.
if last then
  local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
  if tonumber(seq) >= 2^20 - 2^14 then
    redis.call('XSETID', log, string.format('%d-0', tonumber(ms) + 1))
  end
end
if #wake > 0 then
  redis.call('PUBLISH', prefix .. 'wake', table.concat(wake, '\n'))
end
return out
