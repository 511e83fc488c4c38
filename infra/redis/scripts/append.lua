-- Appends events to a shard's log and folds their effect on delivery, in one
-- atomic step. A call carries many operations; each is checked and applied on its
-- own and reports its own outcome.
--
-- KEYS[1]  the shard's log; every other key is made from the shard's prefix and
--          shares its hash tag
-- ARGV[1]  the shard's prefix
-- ARGV[2]  finished entries kept per partition for late readers
-- ARGV[3]  unconsumed messages a queue may hold, 0 for any number
-- ARGV[4…] operations: a letter and a fixed number of arguments each
--
-- Every operation answers {status, position, id, offset, partition}.
--
-- A topic's hash holds v (version), s (state), c and u (the entries that created it and
-- last changed it), p (partitions), n (messages ever published), o:<partition> (next offset),
-- a:<partition> (settlements), b (what a queue without groups counts from), f (a
-- lower bound of what every group has settled) and g:<group> (how often the group
-- began anew: retries parked before that are void) and w:<group> (the entry of the
-- oldest message among those that wait for another attempt, or did with one of them).
-- The hash groups:<topic> holds how many messages each group is done with, counted
-- so that n less it is what the group has not settled.
local OK, DUPLICATE, STALE, LOST, REUSED, EXISTS, ABORTED, FULL = 0, 1, 2, 3, 4, 5, 6, 7
local UUID, META, DATA = '_watermill_message_uuid', 'metadata', 'payload'

local log, prefix, keep, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local wake, wakes = {}, {}
local topics, settled = {}, {}
local last
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function int(n) return string.format('%d', n) end

local function wakeup(line)
  if not wakes[line] then
    wakes[line] = true
    wake[#wake + 1] = line
  end
end

-- What a call reads and counts of a topic is kept here until flush writes it back,
-- so that a call's many messages cost one read and one write.
local function topic(id)
  local t = topics[id]
  if not t then
    local h = redis.call('HMGET', prefix .. 'topic:' .. id, 'v', 'n', 'f')
    t = { v = h[1] or '0', n = tonumber(h[2] or '0'), f = tonumber(h[3] or '0'), offsets = {} }
    topics[id] = t
  end
  return t
end

local function next_offset(id, t, partition)
  local o = t.offsets[partition]
  if not o then o = tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'o:' .. partition) or '0') end
  return o
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
local function trim(id, partition)
  local key = prefix .. 'q:' .. id .. ':' .. partition
  local floor = next_offset(id, topic(id), partition) - keep
  if floor <= 0 or redis.call('EXISTS', key) == 0 then return end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local g = {}
    for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
    local finished = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$'))
    if tonumber(g['pending']) > 0 then
      finished = tonumber(string.match(redis.call('XPENDING', key, g['name'])[2], '%-(%d+)$')) - 1
    end
    if finished < floor then floor = finished end
  end
  redis.call('XTRIM', key, 'MINID', '~', '0-' .. int(floor + 1))
end

-- Writes back what was counted. What changes more than counters flushes first and
-- reads anew.
local function flush()
  for id, t in pairs(topics) do
    if t.dirty then
      local fields = { 'n', int(t.n), 'f', int(t.f) }
      for p, o in pairs(t.offsets) do
        fields[#fields + 1] = 'o:' .. p
        fields[#fields + 1] = int(o)
      end
      redis.call('HSET', prefix .. 'topic:' .. id, unpack(fields))
      t.dirty = false
    end
  end
  local counted = settled
  settled = {}
  for id, s in pairs(counted) do
    for group, k in pairs(s.groups) do
      redis.call('HINCRBY', prefix .. 'groups:' .. id, group, k)
    end
    for p, k in pairs(s.partitions) do
      local a = redis.call('HINCRBY', prefix .. 'topic:' .. id, 'a:' .. p, k)
      if math.floor(a / 1000) ~= math.floor((a - k) / 1000) then trim(id, p) end
    end
  end
end

local function count_settled(id, group, stream)
  local s = settled[id]
  if not s then
    s = { groups = {}, partitions = {} }
    settled[id] = s
  end
  if group then s.groups[group] = (s.groups[group] or 0) + 1 end
  if stream ~= '-1' then s.partitions[stream] = (s.partitions[stream] or 0) + 1 end
end

-- What the group that is furthest behind has settled; without groups, what a purge
-- took.
local function settled_by_all(id)
  local counts = redis.call('HVALS', prefix .. 'groups:' .. id)
  if #counts == 0 then return tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'b') or '0') end
  local least = tonumber(counts[1])
  for i = 2, #counts do least = math.min(least, tonumber(counts[i])) end
  return least
end

-- Whether one more message, behind others on their way, is too many. Groups are
-- looked at only where the bound known from before says so.
local function is_full(id, t, others)
  if most == 0 or t.n + others - t.f < most then return false end
  flush()
  t.f = settled_by_all(id)
  t.dirty = true
  return t.n + others - t.f >= most
end

-- Ends a lease: true where the entry was still pending. An entry is one attempt,
-- so this is also the fence. done says that the group is through with the message.
local function settle(id, group, stream, entry, sub, done)
  local key = stream_key(id, group, stream)
  if redis.call('XACK', key, group, entry) == 0 then return false end
  local lease = table.concat({ sub, id, group, stream, entry }, '|')
  redis.call('ZREM', prefix .. 'due', 'l|' .. lease, 'x|' .. lease)
  if stream == '-1' then redis.call('XDEL', key, entry) end
  count_settled(id, done and group or nil, stream)
  return true
end

-- Publish: topic, topic version, partition, idempotency key, fingerprint, ttl,
-- uuid, event metadata, event head, payload, event tail, delivery metadata
local PUBLISH_ARGS = 12
local function publish_refused(i, others)
  local before = remembered(ARGV[i + 3], ARGV[i + 4])
  if before then return before end
  local t = topic(ARGV[i])
  if t.v ~= ARGV[i + 1] then return { STALE, '', ARGV[i + 6], 0, 0 } end
  if is_full(ARGV[i], t, others) then return { FULL, '', ARGV[i + 6], 0, 0 } end
  return nil
end

local function publish_apply(i)
  local id, partition, uuid, payload = ARGV[i], ARGV[i + 2], ARGV[i + 6], ARGV[i + 9]
  local t = topic(id)
  local offset = next_offset(id, t, partition)
  local pos = record(uuid, ARGV[i + 7], ARGV[i + 8] .. payload .. ARGV[i + 10] .. int(offset) .. '}')
  redis.call('XADD', prefix .. 'q:' .. id .. ':' .. partition, '0-' .. int(offset + 1),
    UUID, uuid, META, ARGV[i + 11], DATA, payload, 'pos', pos)
  t.offsets[partition], t.n, t.dirty = offset + 1, t.n + 1, true
  remember(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], pos, uuid, int(offset), partition)
  wakeup('q ' .. id)
  return { OK, pos, uuid, offset, tonumber(partition) }
end

local ops = {}

ops.P = function(i)
  return publish_refused(i, 0) or publish_apply(i), i + PUBLISH_ARGS
end

-- Topic created: id, version, state, unique name, partitions, idempotency key,
-- fingerprint, ttl, uuid, metadata, event
ops.T = function(i)
  local id, names = ARGV[i], prefix .. 'names'
  local before = remembered(ARGV[i + 5], ARGV[i + 6])
  if before then return before, i + 11 end
  local holder = redis.call('HGET', names, ARGV[i + 3])
  if holder then return { EXISTS, '', holder, 0, 0 }, i + 11 end
  redis.call('HSET', names, ARGV[i + 3], id)
  local pos = record(ARGV[i + 8], ARGV[i + 9], ARGV[i + 10])
  redis.call('HSET', prefix .. 'topic:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2], 'p', ARGV[i + 4], 'c', pos, 'u', pos)
  topics[id] = nil
  remember(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7], pos, id, '0', '0')
  wakeup('a ' .. id)
  return { OK, pos, id, 0, 0 }, i + 11
end

local function partitions_of(id)
  return tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'p') or '0')
end

local function create_group(key, group, start)
  redis.pcall('XGROUP', 'CREATE', key, group, start, 'MKSTREAM')
end

-- Topic updated: id, version it had, version, state, partitions, uuid, metadata,
-- event. New partitions have every group, from their beginning.
ops.U = function(i)
  local id = ARGV[i]
  flush()
  if topic(id).v ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 8 end
  local groups = redis.call('HKEYS', prefix .. 'groups:' .. id)
  for p = partitions_of(id), tonumber(ARGV[i + 4]) - 1 do
    for _, group in ipairs(groups) do create_group(prefix .. 'q:' .. id .. ':' .. p, group, '0') end
  end
  local pos = record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7])
  redis.call('HSET', prefix .. 'topic:' .. id, 'v', ARGV[i + 2], 's', ARGV[i + 3], 'p', ARGV[i + 4], 'u', pos)
  topics[id] = nil
  wakeup('a ' .. id)
  wakeup('t ' .. id)
  return { OK, pos, id, 0, 0 }, i + 8
end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end

-- What a queue's groups have not settled, as JSON, and the groups' names. from is
-- where the oldest message held stands in the log; what waits for another attempt
-- may be older.
local function unsettled(id)
  local t, counts, names, from = topic(id), {}, {}, ''
  for p = 0, partitions_of(id) - 1 do
    local first = redis.call('XRANGE', prefix .. 'q:' .. id .. ':' .. p, '-', '+', 'COUNT', 1)[1]
    if first and (from == '' or before(first[2][8], from)) then from = first[2][8] end
  end
  local all = redis.call('HGETALL', prefix .. 'groups:' .. id)
  for k = 1, #all, 2 do
    local group = all[k]
    names[#names + 1] = group
    counts[#counts + 1] = '"' .. group .. '":' .. int(t.n - tonumber(all[k + 1]))
    local waiting = tonumber(redis.call('HGET', prefix .. 'waiting:' .. id, group) or '0')
    if waiting > 0 or redis.call('XLEN', prefix .. 'retry:' .. id .. ':' .. group) > 0 then
      local failed = redis.call('HGET', prefix .. 'topic:' .. id, 'w:' .. group) or '0-0'
      if from == '' or before(failed, from) then from = failed end
    end
  end
  local fields = {}
  if #counts > 0 then fields[1] = '"groups":{' .. table.concat(counts, ',') .. '}' end
  if from ~= '' then fields[#fields + 1] = '"from":"' .. from .. '"' end
  return '{' .. table.concat(fields, ',') .. '}', names
end

-- Hands what a group holds to a function, entry by entry, as what its leases in the
-- due set end with. consumer is one member's name, or nil for every member.
local LEASES_STEP = 1000
local function each_lease(id, group, consumer, handle)
  local streams = { '-1' }
  for p = 0, partitions_of(id) - 1 do streams[#streams + 1] = int(p) end
  for _, stream in ipairs(streams) do
    local key, from = stream_key(id, group, stream), '-'
    repeat
      local asked = { 'XPENDING', key, group, from, '+', LEASES_STEP, consumer }
      local pending = redis.pcall(unpack(asked))
      if pending.err then break end
      for _, one in ipairs(pending) do handle(one[2], table.concat({ id, group, stream, one[1] }, '|')) end
      if #pending > 0 then from = '(' .. pending[#pending][1] end
    until #pending < LEASES_STEP
  end
end

-- Forgets the leases of a group's members: their entries may come to be leased again.
local function drop_leases(id, group)
  local members = {}
  each_lease(id, group, nil, function(consumer, lease)
    if members[consumer] == nil then
      members[consumer] = redis.call('HGET', prefix .. 'subs:' .. id, group .. '/' .. consumer)
    end
    local sub = members[consumer]
    if sub then redis.call('ZREM', prefix .. 'due', 'l|' .. sub .. '|' .. lease, 'x|' .. sub .. '|' .. lease) end
  end)
end

-- Topic purged: id, version, uuid, metadata, event head, event tail. Groups stay,
-- behind everything that was published.
ops.X = function(i)
  local id = ARGV[i]
  flush()
  local t = topic(id)
  if t.v ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 6 end
  local discarded, groups = unsettled(id)
  for _, group in ipairs(groups) do drop_leases(id, group) end
  for p = 0, partitions_of(id) - 1 do
    local key = prefix .. 'q:' .. id .. ':' .. p
    redis.call('UNLINK', key)
    for _, group in ipairs(groups) do create_group(key, group, '0-' .. int(next_offset(id, t, int(p)))) end
  end
  for _, group in ipairs(groups) do
    -- The retry stream stays itself: its entries' ids must not come again.
    local key = prefix .. 'retry:' .. id .. ':' .. group
    redis.call('XTRIM', key, 'MAXLEN', 0)
    redis.call('XGROUP', 'DESTROY', key, group)
    create_group(key, group, '$')
    redis.call('HSET', prefix .. 'groups:' .. id, group, int(t.n))
    redis.call('HINCRBY', prefix .. 'topic:' .. id, 'g:' .. group, 1)
    redis.call('UNLINK', prefix .. 'parked:' .. id .. ':' .. group)
  end
  redis.call('DEL', prefix .. 'waiting:' .. id)
  local pos = record(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] .. ARGV[i + 5] .. discarded .. '}')
  redis.call('HSET', prefix .. 'topic:' .. id, 'b', int(t.n), 'f', int(t.n))
  topics[id] = nil
  return { OK, pos, id, 0, 0 }, i + 6
end

-- Topic deleted: id, version, unique name, uuid, metadata, event head, event tail
ops.D = function(i)
  local id = ARGV[i]
  flush()
  if topic(id).v ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 7 end
  local discarded, groups = unsettled(id)
  for p = 0, partitions_of(id) - 1 do redis.call('UNLINK', prefix .. 'q:' .. id .. ':' .. p) end
  for _, group in ipairs(groups) do
    redis.call('UNLINK', prefix .. 'retry:' .. id .. ':' .. group, prefix .. 'parked:' .. id .. ':' .. group)
  end
  for _, sub in ipairs(redis.call('HVALS', prefix .. 'subs:' .. id)) do
    redis.call('DEL', prefix .. 'sub:' .. sub)
    wakeup('a ' .. sub)
  end
  redis.call('DEL', prefix .. 'subs:' .. id, prefix .. 'groups:' .. id, prefix .. 'waiting:' .. id, prefix .. 'topic:' .. id)
  redis.call('HDEL', prefix .. 'names', ARGV[i + 2])
  topics[id] = nil
  wakeup('a ' .. id)
  wakeup('t ' .. id)
  return { OK, record(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5] .. ARGV[i + 6] .. discarded .. '}'), id, 0, 0 }, i + 7
end

-- Subscription created: id, version, state, topic, topic version, group, unique
-- name, start, idempotency key, fingerprint, ttl, uuid, metadata, event
ops.S = function(i)
  local id, owner, group = ARGV[i], ARGV[i + 3], ARGV[i + 5]
  local again = remembered(ARGV[i + 8], ARGV[i + 9])
  if again then return again, i + 14 end
  flush()
  local t = topic(owner)
  if t.v ~= ARGV[i + 4] then return { STALE, '', id, 0, 0 }, i + 14 end
  local names = prefix .. 'subs:' .. owner
  local holder = redis.call('HGET', names, ARGV[i + 6])
  if holder then return { EXISTS, '', holder, 0, 0 }, i + 14 end
  redis.call('HSET', names, ARGV[i + 6], id)
  -- A group that is there already keeps its place: members join, they do not seek.
  if redis.call('HEXISTS', prefix .. 'groups:' .. owner, group) == 0 then
    local held = 0
    for p = 0, partitions_of(owner) - 1 do
      local key = prefix .. 'q:' .. owner .. ':' .. p
      create_group(key, group, ARGV[i + 7])
      held = held + redis.call('XLEN', key)
    end
    create_group(prefix .. 'retry:' .. owner .. ':' .. group, group, '0')
    if ARGV[i + 7] == '$' then held = 0 end
    redis.call('HINCRBY', prefix .. 'topic:' .. owner, 'g:' .. group, 1)
    redis.call('HSET', prefix .. 'groups:' .. owner, group, int(t.n - held))
    t.f, t.dirty = settled_by_all(owner), true
  end
  local pos = record(ARGV[i + 11], ARGV[i + 12], ARGV[i + 13])
  redis.call('HSET', prefix .. 'sub:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2], 'c', pos, 'u', pos)
  remember(ARGV[i + 8], ARGV[i + 9], ARGV[i + 10], pos, id, '0', '0')
  wakeup('a ' .. id)
  return { OK, pos, id, 0, 0 }, i + 14
end

local function subscription_version(id)
  return redis.call('HGET', prefix .. 'sub:' .. id, 'v') or '0'
end

-- Subscription updated, paused or resumed: id, version it had, version, state,
-- topic, group, uuid, metadata, event
ops.V = function(i)
  local id = ARGV[i]
  if subscription_version(id) ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 9 end
  local pos = record(ARGV[i + 6], ARGV[i + 7], ARGV[i + 8])
  redis.call('HSET', prefix .. 'sub:' .. id, 'v', ARGV[i + 2], 's', ARGV[i + 3], 'u', pos)
  wakeup('a ' .. id)
  wakeup('s ' .. ARGV[i + 4] .. ' ' .. ARGV[i + 5])
  return { OK, pos, id, 0, 0 }, i + 9
end

-- Ends a group: what it has not settled is nobody's any more. Answers how many.
local function end_group(id, group)
  local t = topic(id)
  drop_leases(id, group)
  local done = tonumber(redis.call('HGET', prefix .. 'groups:' .. id, group) or '0')
  for p = 0, partitions_of(id) - 1 do
    redis.pcall('XGROUP', 'DESTROY', prefix .. 'q:' .. id .. ':' .. p, group)
  end
  redis.call('UNLINK', prefix .. 'retry:' .. id .. ':' .. group, prefix .. 'parked:' .. id .. ':' .. group)
  redis.call('HDEL', prefix .. 'waiting:' .. id, group)
  redis.call('HDEL', prefix .. 'groups:' .. id, group)
  local base = tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'b') or '0')
  if done > base then redis.call('HSET', prefix .. 'topic:' .. id, 'b', int(done)) end
  return t.n - done
end

-- Subscription deleted: id, version, topic, group, unique name, uuid, metadata,
-- event head, event tail. What it held is due now, for the group's other members.
ops.W = function(i)
  local id, owner, group = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  flush()
  if subscription_version(id) ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 9 end
  local discarded, alone = '{}', true
  for _, name in ipairs(redis.call('HKEYS', prefix .. 'subs:' .. owner)) do
    if name ~= ARGV[i + 4] and string.sub(name, 1, #group + 1) == group .. '/' then alone = false end
  end
  if not alone then
    each_lease(owner, group, string.sub(ARGV[i + 4], #group + 2), function(_, lease)
      redis.call('ZADD', prefix .. 'due', 'XX', now, 'l|' .. id .. '|' .. lease)
    end)
  end
  if alone then discarded = '{"groups":{"' .. group .. '":' .. int(end_group(owner, group)) .. '}}' end
  redis.call('HDEL', prefix .. 'subs:' .. owner, ARGV[i + 4])
  redis.call('DEL', prefix .. 'sub:' .. id)
  wakeup('a ' .. id)
  wakeup('s ' .. owner .. ' ' .. group)
  return { OK, record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7] .. ARGV[i + 8] .. discarded .. '}'), id, 0, 0 }, i + 9
end

-- Settled for good (consumed, dead-lettered): topic, group, stream, entry,
-- subscription, uuid, metadata, event
ops.K = function(i)
  if not settle(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], true) then
    return { LOST, '', ARGV[i + 5], 0, 0 }, i + 8
  end
  return { OK, record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]), ARGV[i + 5], 0, 0 }, i + 8
end

-- Notes where the oldest message stands that a group has to try again.
local function note_failed(id, group, pos)
  local key, field = prefix .. 'topic:' .. id, 'w:' .. group
  local oldest = redis.call('HGET', key, field)
  local alone = tonumber(redis.call('HGET', prefix .. 'waiting:' .. id, group) or '0') == 0
    and redis.call('XLEN', prefix .. 'retry:' .. id .. ':' .. group) == 0
  if not oldest or alone or before(pos, oldest) then redis.call('HSET', key, field, pos) end
end

-- Failed, to be tried again: topic, group, stream, entry, subscription, delay in
-- ms, next attempt, message, uuid, metadata, event
ops.F = function(i)
  local id, group, stream, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = stream_key(id, group, stream)
  local entries = redis.call('XRANGE', key, entry, entry)
  if #entries == 0 or not settle(id, group, stream, entry, ARGV[i + 4], false) then
    return { LOST, '', ARGV[i + 8], 0, 0 }, i + 11
  end
  local f = entries[1][2]
  if stream ~= '-1' then
    f[#f + 1] = 'off'
    f[#f + 1] = int(tonumber(string.match(entry, '%-(%d+)$')) - 1)
    f[#f + 1] = 'part'
    f[#f + 1] = stream
    f[#f + 1] = 'att'
    f[#f + 1] = ''
  end
  f[#f] = ARGV[i + 6]
  note_failed(id, group, f[8])
  local delay = tonumber(ARGV[i + 5])
  if delay > 0 then
    local begun = redis.call('HGET', prefix .. 'topic:' .. id, 'g:' .. group) or '0'
    local member = table.concat({ 'r', id, group, begun, ARGV[i + 7] }, '|')
    redis.call('HSET', prefix .. 'parked:' .. id .. ':' .. group, member, cmsgpack.pack(f))
    redis.call('HINCRBY', prefix .. 'waiting:' .. id, group, 1)
    redis.call('ZADD', prefix .. 'due', now + delay, member)
  else
    redis.call('XADD', prefix .. 'retry:' .. id .. ':' .. group, '*', unpack(f))
    wakeup('r ' .. id .. ' ' .. group)
  end
  return { OK, record(ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]), ARGV[i + 8], 0, 0 }, i + 11
end

local out, i = {}, 4
local function run()
  while i <= #ARGV do
    local op = ARGV[i]
    if op == 'A' then
      -- All or none of the next n publishes: check every one, then apply.
      local n, first = tonumber(ARGV[i + 1]), i + 2
      local refused, fresh = false, 0
      local answers = {}
      for k = 0, n - 1 do
        answers[k] = publish_refused(first + k * (PUBLISH_ARGS + 1) + 1, fresh)
        if not answers[k] then fresh = fresh + 1 end
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
end

-- Whatever goes wrong, what was counted must be written back: the streams have the
-- messages already.
local ran, fault = pcall(run)
flush()
if not ran then return type(fault) == 'table' and fault or redis.error_reply(tostring(fault)) end

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
