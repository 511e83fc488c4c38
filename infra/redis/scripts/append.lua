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
-- oldest message among those that wait for another attempt or are held, or did with one
-- of them), sc (messages that wait to be released), am:<group> (the highest number that
-- an attempt had), ab:<group> (what a fresh message's attempts are counted from) and
-- ord:<group> (1 where the group was ever ordered).
-- The hash groups:<topic> holds how many messages each group is done with, counted
-- so that n less it is what the group has not settled.
local OK, DUPLICATE, STALE, LOST, REUSED, EXISTS, ABORTED, FULL, NOT_SCHEDULED, ERASED, TOO_MANY = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

local log, keep, most = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local topics, settled = {}, {}
local last
local now = clock()
-- When the soonest of what this call puts into the due set is due.
local soonest

local function due_at(member, at)
  redis.call('ZADD', prefix .. 'due', at, member)
  if not soonest or at < soonest then soonest = at end
end

-- What a call reads and counts of a topic is kept here until flush writes it back,
-- so that a call's many messages cost one read and one write.
local function topic(id)
  local t = topics[id]
  if not t then
    local h = redis.call('HMGET', prefix .. 'topic:' .. id, 'v', 'n', 'f', 'sc')
    t = { v = h[1] or '0', n = tonumber(h[2] or '0'), f = tonumber(h[3] or '0'), sc = tonumber(h[4] or '0'), offsets = {}, groups = {} }
    topics[id] = t
  end
  return t
end

local function next_offset(id, t, partition)
  local o = t.offsets[partition]
  if not o then o = tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'o:' .. partition) or '0') end
  return o
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

-- Writes back what was counted. What changes more than counters flushes first and
-- reads anew.
local function flush()
  for id, t in pairs(topics) do
    if t.dirty then
      local fields = { 'n', int(t.n), 'f', int(t.f), 'sc', int(t.sc) }
      for p, o in pairs(t.offsets) do
        fields[#fields + 1] = 'o:' .. p
        fields[#fields + 1] = int(o)
      end
      redis.call('HSET', prefix .. 'topic:' .. id, unpack(fields))
      t.dirty = false
    end
  end
  local sums = settled
  settled = {}
  for id, s in pairs(sums) do
    for group, k in pairs(s.groups) do
      redis.call('HINCRBY', prefix .. 'groups:' .. id, group, k)
    end
    for p, k in pairs(s.partitions) do
      count_and_trim(id, p, k, keep)
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

-- Whether one more message, behind others on their way, is too many: those that wait
-- to be released count. Groups are looked at only where the bound known from before
-- says so.
local function is_full(id, t, others)
  if most == 0 or t.n + t.sc + others - t.f < most then return false end
  flush()
  t.f = settled_by_all(id)
  t.dirty = true
  return t.n + t.sc + others - t.f >= most
end

-- What a call knows of a group: whether it is ordered, its highest attempt, and what a
-- fresh message's attempts are counted from.
local function group_of(id, group)
  local t = topic(id)
  local g = t.groups[group]
  if not g then
    local h = redis.call('HMGET', prefix .. 'topic:' .. id, 'ord:' .. group, 'am:' .. group, 'ab:' .. group)
    g = { ordered = h[1] == '1', highest = tonumber(h[2] or '1'), base = tonumber(h[3] or '0') }
    t.groups[group] = g
  end
  return g
end

-- Notes the number of an attempt that is to come.
local function note_attempt(id, group, attempt)
  local g = group_of(id, group)
  if attempt > g.highest then
    g.highest = attempt
    redis.call('HSET', prefix .. 'topic:' .. id, 'am:' .. group, int(attempt))
  end
end

-- Gives a group a message to try: now, or once those of its key before it are settled.
local function offer(id, group, fields)
  redis.call('XADD', prefix .. 'retry:' .. id .. ':' .. group, '*', unpack(fields))
  wakeup('r ' .. id .. ' ' .. group)
end

-- An ordered group is through with a message of a key: the next one's turn comes, if it
-- was this one's (a message that was handed out before the group was ordered had none).
local function next_of_key(id, group, fields)
  local key, busy = key_of(fields), prefix .. 'busy:' .. id .. ':' .. group
  if not key or redis.call('HGET', busy, key) ~= fields[2] then return end
  local packed = redis.call('LPOP', held_key(id, group, key))
  if packed then
    local held = cmsgpack.unpack(packed)
    redis.call('HINCRBY', prefix .. 'heldn:' .. id, group, -1)
    redis.call('HSET', busy, key, held[2])
    offer(id, group, held)
  else
    redis.call('HDEL', busy, key)
  end
end

-- Forgets what an ordered group holds.
local function drop_held(id, group)
  local busy = prefix .. 'busy:' .. id .. ':' .. group
  for _, key in ipairs(redis.call('HKEYS', busy)) do redis.call('UNLINK', held_key(id, group, key)) end
  redis.call('UNLINK', busy)
  redis.call('HDEL', prefix .. 'heldn:' .. id, group)
end

-- Forgets the lease of an entry that a group was handed: true where it was pending.
local function drop_lease(id, group, stream, entry)
  local pending = redis.pcall('XPENDING', stream_key(id, group, stream), group, entry, entry, 1)
  if pending.err or #pending == 0 then return false end
  local sub = redis.call('HGET', prefix .. 'subs:' .. id, group .. '/' .. pending[1][2])
  if sub then
    local lease = table.concat({ sub, id, group, stream, entry }, '|')
    redis.call('ZREM', prefix .. 'due', 'l|' .. lease, 'x|' .. lease)
  end
  return true
end

-- Ends a lease: true where the entry was still pending. An entry is one attempt,
-- so this is also the fence; but an entry of a partition comes again after a seek, and
-- then its attempts are counted from elsewhere. done says that the group is through with
-- the message.
local function settle(id, group, stream, entry, sub, base, done)
  local key = stream_key(id, group, stream)
  if stream ~= '-1' and tonumber(base) ~= group_of(id, group).base then return false end
  local through = done and group_of(id, group).ordered and redis.call('XRANGE', key, entry, entry)[1]
  if redis.call('XACK', key, group, entry) == 0 then return false end
  if through then next_of_key(id, group, through[2]) end
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

-- What a queue's groups have not settled, as JSON, and the groups' names. from is
-- where the oldest message held stands in the log; what waits for another attempt
-- may be older.
local function unsettled(id)
  local t, counts, names, from = topic(id), {}, {}, ''
  for p = 0, partitions_of(id) - 1 do
    local first = redis.call('XRANGE', prefix .. 'q:' .. id .. ':' .. p, '-', '+', 'COUNT', 1)[1]
    if first and (from == '' or before(first[2][8], from)) then from = first[2][8] end
    -- What was released late was accepted before what stands before it.
    local released = first and redis.call('HGET', prefix .. 'topic:' .. id, 'sp:' .. p)
    local pos, offset = string.match(released or '', '^(.-)|(.+)$')
    if pos and tonumber(offset) >= tonumber(string.match(first[1], '%-(%d+)$')) - 1 and before(pos, from) then from = pos end
  end
  local all = redis.call('HGETALL', prefix .. 'groups:' .. id)
  for k = 1, #all, 2 do
    local group = all[k]
    names[#names + 1] = group
    counts[#counts + 1] = '"' .. group .. '":' .. int(t.n - tonumber(all[k + 1]))
    if has_outside(id, group) then
      local failed = redis.call('HGET', prefix .. 'topic:' .. id, 'w:' .. group) or '0-0'
      if from == '' or before(failed, from) then from = failed end
    end
  end
  local scheduled = redis.call('HLEN', prefix .. 'scheduled:' .. id)
  if scheduled > 0 then
    local pos = redis.call('HGET', prefix .. 'topic:' .. id, 'so')
    if from == '' or before(pos, from) then from = pos end
  end
  local fields = {}
  if #counts > 0 then fields[1] = '"groups":{' .. table.concat(counts, ',') .. '}' end
  if scheduled > 0 then fields[#fields + 1] = '"scheduled":' .. int(scheduled) end
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

-- Forgets a topic's scheduled messages.
local function drop_scheduled(id)
  for _, message in ipairs(redis.call('HKEYS', prefix .. 'scheduled:' .. id)) do
    redis.call('ZREM', prefix .. 'due', 's|' .. id .. '|' .. message)
    redis.call('HDEL', prefix .. 'scheduled', message)
  end
  redis.call('UNLINK', prefix .. 'scheduled:' .. id)
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
    local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    if newest then redis.call('HSET', prefix .. 'topic:' .. id, 'ts:' .. p, (string.match(newest[2][8], '^(%d+)'))) end
    redis.call('UNLINK', key, holes_key(id, int(p)))
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
    drop_held(id, group)
  end
  redis.call('DEL', prefix .. 'waiting:' .. id)
  drop_scheduled(id)
  local pos = record(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] .. ARGV[i + 5] .. discarded .. '}')
  redis.call('HSET', prefix .. 'topic:' .. id, 'b', int(t.n), 'f', int(t.n), 'sc', 0)
  topics[id] = nil
  return { OK, pos, id, 0, 0 }, i + 6
end

-- Topic deleted: id, version, unique name, uuid, metadata, event head, event tail
ops.D = function(i)
  local id = ARGV[i]
  flush()
  if topic(id).v ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 7 end
  local discarded, groups = unsettled(id)
  for p = 0, partitions_of(id) - 1 do redis.call('UNLINK', prefix .. 'q:' .. id .. ':' .. p, holes_key(id, int(p))) end
  for _, group in ipairs(groups) do
    redis.call('UNLINK', prefix .. 'retry:' .. id .. ':' .. group, prefix .. 'parked:' .. id .. ':' .. group)
    drop_held(id, group)
  end
  for _, sub in ipairs(redis.call('HVALS', prefix .. 'subs:' .. id)) do
    redis.call('DEL', prefix .. 'sub:' .. sub)
    redis.call('SREM', prefix .. 'push', sub)
    wakeup('a ' .. sub)
  end
  drop_scheduled(id)
  for _, schedule in ipairs(redis.call('SMEMBERS', prefix .. 'schedules:' .. id)) do
    redis.call('DEL', prefix .. 'schedule:' .. schedule)
    redis.call('ZREM', prefix .. 'due', 'c|' .. schedule)
  end
  redis.call('DEL', prefix .. 'subs:' .. id, prefix .. 'groups:' .. id, prefix .. 'waiting:' .. id, prefix .. 'topic:' .. id,
    prefix .. 'schedules:' .. id)
  redis.call('HDEL', prefix .. 'names', ARGV[i + 2])
  topics[id] = nil
  wakeup('a ' .. id)
  wakeup('t ' .. id)
  return { OK, record(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5] .. ARGV[i + 6] .. discarded .. '}'), id, 0, 0 }, i + 7
end

-- The offset of the first message that a partition's stream holds, or the next one.
local function first_offset(key, next_one)
  local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  return head and tonumber(string.match(head[1], '%-(%d+)$')) - 1 or next_one
end

local function offsets_field(offsets) return ',"offsets":[' .. table.concat(offsets, ',') .. ']' end

-- Subscription created: id, version, state, topic, topic version, group, unique
-- name, start, idempotency key, fingerprint, ttl, whether to push, uuid, metadata, event
-- head, event tail
local SUBSCRIBE_ARGS = 16
ops.S = function(i)
  local id, owner, group = ARGV[i], ARGV[i + 3], ARGV[i + 5]
  local again = remembered(ARGV[i + 8], ARGV[i + 9])
  if again then return again, i + SUBSCRIBE_ARGS end
  flush()
  local t = topic(owner)
  if t.v ~= ARGV[i + 4] then return { STALE, '', id, 0, 0 }, i + SUBSCRIBE_ARGS end
  local names = prefix .. 'subs:' .. owner
  local holder = redis.call('HGET', names, ARGV[i + 6])
  if holder then return { EXISTS, '', holder, 0, 0 }, i + SUBSCRIBE_ARGS end
  local joined = '{"group":"' .. group .. '"'
  redis.call('HSET', names, ARGV[i + 6], id)
  -- A group that is there already keeps its place: members join, they do not seek.
  if redis.call('HEXISTS', prefix .. 'groups:' .. owner, group) == 0 then
    local held, offsets = 0, {}
    for p = 0, partitions_of(owner) - 1 do
      local key = prefix .. 'q:' .. owner .. ':' .. p
      create_group(key, group, ARGV[i + 7])
      local first = next_offset(owner, t, int(p))
      if ARGV[i + 7] ~= '$' then
        first = first_offset(key, first)
        held = held + redis.call('XLEN', key)
      end
      offsets[#offsets + 1] = int(first)
    end
    create_group(prefix .. 'retry:' .. owner .. ':' .. group, group, '0')
    redis.call('HINCRBY', prefix .. 'topic:' .. owner, 'g:' .. group, 1)
    redis.call('HSET', prefix .. 'groups:' .. owner, group, int(t.n - held))
    t.f, t.dirty = settled_by_all(owner), true
    joined = joined .. ',"began":true' .. (held > 0 and ',"backlog":' .. int(held) or '') .. offsets_field(offsets)
  end
  local pos = record(ARGV[i + 12], ARGV[i + 13], ARGV[i + 14] .. ARGV[i + 15] .. joined .. '}}')
  redis.call('HSET', prefix .. 'sub:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2], 'c', pos, 'u', pos)
  if ARGV[i + 11] == '1' then redis.call('SADD', prefix .. 'push', id) end
  remember(ARGV[i + 8], ARGV[i + 9], ARGV[i + 10], pos, id, '0', '0')
  wakeup('a ' .. id)
  return { OK, pos, id, 0, 0 }, i + SUBSCRIBE_ARGS
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
  drop_held(id, group)
  redis.call('HDEL', prefix .. 'waiting:' .. id, group)
  redis.call('HDEL', prefix .. 'groups:' .. id, group)
  redis.call('HDEL', prefix .. 'topic:' .. id, 'ord:' .. group, 'w:' .. group, 'am:' .. group, 'ab:' .. group)
  t.groups[group] = nil
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
  redis.call('SREM', prefix .. 'push', id)
  wakeup('a ' .. id)
  wakeup('s ' .. owner .. ' ' .. group)
  return { OK, record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7] .. ARGV[i + 8] .. discarded .. '}'), id, 0, 0 }, i + 9
end

-- Settled for good (consumed, dead-lettered): topic, group, stream, entry,
-- subscription, attempts before, uuid, metadata, event
ops.K = function(i)
  if not settle(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], true) then
    return { LOST, '', ARGV[i + 6], 0, 0 }, i + 9
  end
  return { OK, record(ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]), ARGV[i + 6], 0, 0 }, i + 9
end

-- Dead-lettered, to be published to another queue too: as K. What is to be published
-- waits in the outbox, under its name in the due set.
ops.Z = function(i)
  local id, group, stream, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local read = redis.call('XRANGE', stream_key(id, group, stream), entry, entry)[1]
  if not read or not settle(id, group, stream, entry, ARGV[i + 4], ARGV[i + 5], true) then
    return { LOST, '', ARGV[i + 6], 0, 0 }, i + 9
  end
  local member = 'd|' .. ARGV[i + 6]
  redis.call('HSET', prefix .. 'outbox', member, cmsgpack.pack({ ARGV[i + 8], stream, entry, read[2] }))
  due_at(member, now)
  return { OK, record(ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]), ARGV[i + 6], 0, 0 }, i + 9
end

-- Failed, to be tried again: topic, group, stream, entry, subscription, delay in
-- ms, next attempt, attempts before, message, uuid, metadata, event, how many of its
-- attempts nobody saw
ops.F = function(i)
  local id, group, stream, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = stream_key(id, group, stream)
  local entries = redis.call('XRANGE', key, entry, entry)
  if #entries == 0 or not settle(id, group, stream, entry, ARGV[i + 4], ARGV[i + 7], false) then
    return { LOST, '', ARGV[i + 9], 0, 0 }, i + 13
  end
  local f = entries[1][2]
  if stream ~= '-1' then
    complete(f, stream, entry, ARGV[i + 6], ARGV[i + 7])
  else
    set_field(f, 'att', ARGV[i + 6])
  end
  if ARGV[i + 12] ~= '0' then set_field(f, 'unseen', ARGV[i + 12]) end
  note_attempt(id, group, tonumber(ARGV[i + 6]))
  note_outside(id, group, origin(f))
  local delay = tonumber(ARGV[i + 5])
  if delay > 0 then
    local begun = redis.call('HGET', prefix .. 'topic:' .. id, 'g:' .. group) or '0'
    local member = table.concat({ 'r', id, group, begun, ARGV[i + 8] .. '/' .. ARGV[i + 6] .. '/' .. ARGV[i + 7] }, '|')
    redis.call('HSET', prefix .. 'parked:' .. id .. ':' .. group, member, cmsgpack.pack(f))
    redis.call('HINCRBY', prefix .. 'waiting:' .. id, group, 1)
    due_at(member, now + delay)
  else
    offer(id, group, f)
  end
  return { OK, record(ARGV[i + 9], ARGV[i + 10], ARGV[i + 11]), ARGV[i + 9], 0, 0 }, i + 13
end

-- Scheduled: as a publish, then when to release it (ms since 1970, or 0), after how many
-- ms else, and of the event of its release the uuid, metadata, head and tail. The offset
-- that it answers is when it is released, below zero: whoever asks again under the same
-- key learns that too, although its time may have come meanwhile.
ops.H = function(i)
  local refused = publish_refused(i, 0)
  if refused then return refused, i + PUBLISH_ARGS + 6 end
  local id, uuid = ARGV[i], ARGV[i + 6]
  local t, r = topic(id), i + PUBLISH_ARGS
  local at = tonumber(ARGV[r])
  if at == 0 then at = now + tonumber(ARGV[r + 1]) end
  local pos = record(uuid, ARGV[i + 7], ARGV[i + 8] .. ARGV[i + 9] .. ARGV[i + 10] .. int(at) .. '}')
  redis.call('HSET', prefix .. 'scheduled:' .. id, uuid, cmsgpack.pack({ pos, ARGV[i + 2], ARGV[i + 11], ARGV[i + 9],
    ARGV[r + 2], ARGV[r + 3], ARGV[r + 4], ARGV[r + 5] }))
  redis.call('HSET', prefix .. 'scheduled', uuid, id)
  due_at('s|' .. id .. '|' .. uuid, at)
  if t.sc == 0 then redis.call('HSET', prefix .. 'topic:' .. id, 'so', pos) end
  t.sc, t.dirty = t.sc + 1, true
  remember(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], pos, uuid, int(-at), ARGV[i + 2])
  return { OK, pos, uuid, -at, tonumber(ARGV[i + 2]) }, r + 6
end

-- A scheduled message is cancelled: topic, message, uuid, metadata, event
ops.N = function(i)
  local id, message = ARGV[i], ARGV[i + 1]
  if redis.call('HDEL', prefix .. 'scheduled:' .. id, message) == 0 then
    return { NOT_SCHEDULED, '', message, 0, 0 }, i + 5
  end
  redis.call('HDEL', prefix .. 'scheduled', message)
  redis.call('ZREM', prefix .. 'due', 's|' .. id .. '|' .. message)
  local t = topic(id)
  t.sc, t.dirty = t.sc - 1, true
  return { OK, record(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]), message, 0, 0 }, i + 5
end

-- Redriven: topic, group, subscription, its version, idempotency key, fingerprint, ttl,
-- next attempt, attempts before, message, delivery metadata, payload, position,
-- offset, partition, uuid, metadata, event
ops.R = function(i)
  local id, group, message = ARGV[i], ARGV[i + 1], ARGV[i + 9]
  local again = remembered(ARGV[i + 4], ARGV[i + 5])
  if again then return again, i + 18 end
  if subscription_version(ARGV[i + 2]) ~= ARGV[i + 3] then return { STALE, '', message, 0, 0 }, i + 18 end
  if redis.call('EXISTS', prefix .. 'erased:' .. message) == 1 then return { ERASED, '', message, 0, 0 }, i + 18 end
  flush()
  local t = topic(id)
  local done = tonumber(redis.call('HGET', prefix .. 'groups:' .. id, group) or '0')
  if most > 0 and t.n - done >= most then return { FULL, '', message, 0, 0 }, i + 18 end
  redis.call('HINCRBY', prefix .. 'groups:' .. id, group, -1)
  t.f, t.dirty = math.min(t.f, settled_by_all(id)), true
  local fields = { UUID, message, META, ARGV[i + 10], DATA, ARGV[i + 11], 'pos', ARGV[i + 12], 'off', ARGV[i + 13],
    'part', ARGV[i + 14], 'att', ARGV[i + 7], 'base', ARGV[i + 8] }
  note_attempt(id, group, tonumber(ARGV[i + 7]))
  note_outside(id, group, origin(fields))
  local key = group_of(id, group).ordered and key_of(fields)
  if key and redis.call('HSETNX', prefix .. 'busy:' .. id .. ':' .. group, key, message) == 0 then
    hold(id, group, key, fields)
  else
    offer(id, group, fields)
  end
  local pos = record(ARGV[i + 15], ARGV[i + 16], ARGV[i + 17])
  remember(ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], pos, message, '0', '0')
  return { OK, pos, message, 0, 0 }, i + 18
end

-- The first offset of a partition that was published at a time or later. An entry that is
-- missing is as the one behind it.
local function offset_at(key, first, last, ms)
  while first < last do
    local middle = math.floor((first + last) / 2)
    local read = redis.call('XRANGE', key, '0-' .. int(middle + 1), '+', 'COUNT', 1)[1]
    if read and tonumber(string.match(read[2][8], '^(%d+)')) >= ms then last = middle else first = middle + 1 end
  end
  return first
end

-- Subscription sought: id, version, topic, group, to (earliest, latest, time, offset),
-- ms or offset, uuid, metadata, event head, event tail. What the group had not settled
-- is as if it had been, and then all from there on as if it never was.
ops.G = function(i)
  local id, owner, group, to, value = ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 5])
  if subscription_version(id) ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 10 end
  flush()
  local t = topic(owner)
  local unsettled_before = t.n - tonumber(redis.call('HGET', prefix .. 'groups:' .. owner, group) or '0')
  drop_leases(owner, group)
  drop_held(owner, group)
  redis.call('UNLINK', prefix .. 'parked:' .. owner .. ':' .. group)
  redis.call('HDEL', prefix .. 'waiting:' .. owner, group)
  local retries = prefix .. 'retry:' .. owner .. ':' .. group
  redis.call('XTRIM', retries, 'MAXLEN', 0)
  redis.call('XGROUP', 'DESTROY', retries, group)
  create_group(retries, group, '$')
  local unsettled_after, older, offsets = 0, false, {}
  for p = 0, partitions_of(owner) - 1 do
    local key = prefix .. 'q:' .. owner .. ':' .. p
    local next_one = next_offset(owner, t, int(p))
    local first = first_offset(key, next_one)
    local at = first
    if to == 'latest' then
      at = next_one
    elseif to == 'offset' then
      at = math.max(first, math.min(value, next_one))
      older = older or (value < first)
    elseif to == 'time' then
      at = offset_at(key, first, next_one, value)
      local trimmed = redis.call('HGET', prefix .. 'topic:' .. owner, 'ts:' .. p)
      -- Of what was trimmed by an earlier release nobody noted the time.
      older = older or (first > 0 and at == first and (not trimmed or tonumber(trimmed) >= value))
    else
      older = older or first > 0
    end
    redis.pcall('XGROUP', 'DESTROY', key, group)
    create_group(key, group, '0-' .. int(at))
    unsettled_after = unsettled_after + next_one - at - holes_from(owner, int(p), at + 1)
    offsets[#offsets + 1] = int(at)
  end
  redis.call('HSET', prefix .. 'groups:' .. owner, group, int(t.n - unsettled_after))
  redis.call('HINCRBY', prefix .. 'topic:' .. owner, 'g:' .. group, 1)
  local highest = group_of(owner, group).highest
  redis.call('HSET', prefix .. 'topic:' .. owner, 'ab:' .. group, int(highest), 'am:' .. group, int(highest + 1))
  t.groups[group] = nil
  t.f, t.dirty = settled_by_all(owner), true
  local moved = '{"group":"' .. group .. '","before":' .. int(unsettled_before) .. ',"after":' .. int(unsettled_after)
    .. (older and ',"older":true' or '') .. offsets_field(offsets) .. ',"attemptsBefore":' .. int(highest) .. '}'
  local pos = record(ARGV[i + 6], ARGV[i + 7], ARGV[i + 8] .. ARGV[i + 9] .. moved .. '}')
  wakeup('s ' .. owner .. ' ' .. group)
  return { OK, pos, id, older and 1 or 0, 0 }, i + 10
end

-- Takes a message out of what a group has outside of the partitions' streams. Answers how
-- often it was there.
local ERASE_STEP, ERASE_MAX = 100, 10000
local function take_outside(id, group, message, key)
  if not has_outside(id, group) then return 0 end
  local parked, retries = prefix .. 'parked:' .. id .. ':' .. group, prefix .. 'retry:' .. id .. ':' .. group
  local line = key ~= '' and held_key(id, group, redis.sha1hex(key))
  local n, through = 0, nil
  local cursor = '0'
  repeat
    local scanned = redis.call('HSCAN', parked, cursor, 'MATCH', '*|' .. message .. '/*', 'COUNT', ERASE_STEP)
    cursor = scanned[1]
    for k = 1, #scanned[2], 2 do
      redis.call('ZREM', prefix .. 'due', scanned[2][k])
      if redis.call('HDEL', parked, scanned[2][k]) == 1 then
        redis.call('HINCRBY', prefix .. 'waiting:' .. id, group, -1)
        n, through = n + 1, cmsgpack.unpack(scanned[2][k + 1])
      end
    end
  until cursor == '0'
  local from = '-'
  repeat
    local read = redis.call('XRANGE', retries, from, '+', 'COUNT', ERASE_STEP)
    for _, e in ipairs(read) do
      if e[2][2] == message then
        drop_lease(id, group, '-1', e[1])
        redis.call('XACK', retries, group, e[1])
        redis.call('XDEL', retries, e[1])
        n, through = n + 1, e[2]
      end
    end
    if #read > 0 then from = '(' .. read[#read][1] end
  until #read < ERASE_STEP
  for _, packed in ipairs(line and redis.call('LRANGE', line, 0, -1) or {}) do
    if cmsgpack.unpack(packed)[2] == message then
      local gone = redis.call('LREM', line, 0, packed)
      redis.call('HINCRBY', prefix .. 'heldn:' .. id, group, -gone)
      n = n + gone
    end
  end
  if through then next_of_key(id, group, through) end
  return n
end

-- A message's payload is erased: topic, message, partition, offset (-1 where it waits to be
-- released, -2 for never published), the log's entry where it was accepted, key, for how
-- long that is remembered (ms), uuid, metadata, event head, event tail. Who has not settled
-- the message loses it. An entry cannot be changed: it goes, and leaves a hole.
ops.E = function(i)
  local id, message, partition, offset = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  flush()
  local groups = redis.call('HKEYS', prefix .. 'groups:' .. id)
  for _, group in ipairs(groups) do
    if redis.call('HLEN', prefix .. 'parked:' .. id .. ':' .. group) + redis.call('XLEN', prefix .. 'retry:' .. id .. ':' .. group)
      + counted('heldn', id, group) > ERASE_MAX then return { TOO_MANY, '', message, 0, 0 }, i + 11 end
  end
  if redis.call('HLEN', prefix .. 'outbox') > ERASE_MAX then return { TOO_MANY, '', message, 0, 0 }, i + 11 end
  local scheduled = redis.call('HDEL', prefix .. 'scheduled:' .. id, message)
  if scheduled == 0 and offset == -1 then return { NOT_SCHEDULED, '', message, 0, 0 }, i + 11 end
  if scheduled == 1 then
    redis.call('HDEL', prefix .. 'scheduled', message)
    redis.call('ZREM', prefix .. 'due', 's|' .. id .. '|' .. message)
    local t = topic(id)
    t.sc, t.dirty = t.sc - 1, true
  end
  local key, number = prefix .. 'q:' .. id .. ':' .. partition, offset + 1
  local entry, handed_out = '0-' .. int(math.max(number, 0)), {}
  local read = number > 0 and redis.call('XRANGE', key, entry, entry)[1]
  for _, info in ipairs(read and redis.call('XINFO', 'GROUPS', key) or {}) do
    local g = {}
    for k = 1, #info, 2 do g[info[k]] = info[k + 1] end
    handed_out[g['name']] = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$')) >= number
  end
  local counts, total = {}, scheduled
  for _, group in ipairs(groups) do
    local n = take_outside(id, group, message, ARGV[i + 5])
    if read and not handed_out[group] then
      n = n + 1
    elseif read and drop_lease(id, group, partition, entry) then
      redis.call('XACK', key, group, entry)
      next_of_key(id, group, read[2])
      n = n + 1
    end
    if n > 0 then
      counts[#counts + 1] = '"' .. group .. '":' .. int(n)
      redis.call('HINCRBY', prefix .. 'groups:' .. id, group, n)
      total = total + n
    end
  end
  if read then
    redis.call('XDEL', key, entry)
    redis.call('ZADD', holes_key(id, partition), number, number)
  end
  -- A copy that is on its way to a dead letter queue.
  local cursor = '0'
  repeat
    local scanned = redis.call('HSCAN', prefix .. 'outbox', cursor, 'COUNT', ERASE_STEP)
    cursor = scanned[1]
    for k = 1, #scanned[2], 2 do
      if cmsgpack.unpack(scanned[2][k + 1])[4][2] == message then
        redis.call('HDEL', prefix .. 'outbox', scanned[2][k])
        redis.call('ZREM', prefix .. 'due', scanned[2][k])
      end
    end
  until cursor == '0'
  redis.call('XDEL', log, ARGV[i + 4]) -- it is folded
  redis.call('SET', prefix .. 'erased:' .. message, '1', 'PX', ARGV[i + 6])
  local fields = {}
  if #counts > 0 then fields[1] = '"groups":{' .. table.concat(counts, ',') .. '}' end
  if scheduled == 1 then fields[#fields + 1] = '"scheduled":1' end
  local pos = record(ARGV[i + 7], ARGV[i + 8], ARGV[i + 9] .. ARGV[i + 10] .. '{' .. table.concat(fields, ',') .. '}}')
  return { OK, pos, message, total, 0 }, i + 11
end

local function ms_of(id) return tonumber(string.match(id, '^(%d+)')) end

-- When the oldest message was accepted (ms) of those that a group has outside of the
-- partitions' streams, nil where it has none. What is noted is a lower bound; where that
-- is before a time and there are few, they are looked at.
local LOOK_MAX = 64
local function oldest_outside(id, group, before_ms)
  if not has_outside(id, group) then return nil end
  local hash, field = prefix .. 'topic:' .. id, 'w:' .. group
  local oldest = redis.call('HGET', hash, field) or '0-0'
  local retries = prefix .. 'retry:' .. id .. ':' .. group
  if ms_of(oldest) >= before_ms
    or counted('waiting', id, group) + counted('heldn', id, group) + redis.call('XLEN', retries) > LOOK_MAX then return ms_of(oldest) end
  oldest = nil
  local function see(fields)
    local pos = origin(fields)
    if not oldest or before(pos, oldest) then oldest = pos end
  end
  for _, e in ipairs(redis.call('XRANGE', retries, '-', '+')) do see(e[2]) end
  for _, packed in ipairs(redis.call('HVALS', prefix .. 'parked:' .. id .. ':' .. group)) do see(cmsgpack.unpack(packed)) end
  for _, key in ipairs(redis.call('HKEYS', prefix .. 'busy:' .. id .. ':' .. group)) do
    for _, packed in ipairs(redis.call('LRANGE', held_key(id, group, key), 0, -1)) do see(cmsgpack.unpack(packed)) end
  end
  if not oldest then return 0 end
  redis.call('HSET', hash, field, oldest)
  return ms_of(oldest)
end

-- When the oldest message was published (ms) that a group has not settled, a bound of that
-- where it is before a time, nil for none.
local function oldest_unsettled(id, before_ms)
  local oldest
  for p = 0, partitions_of(id) - 1 do
    local key = prefix .. 'q:' .. id .. ':' .. p
    for _, info in ipairs(redis.call('EXISTS', key) == 1 and redis.call('XINFO', 'GROUPS', key) or {}) do
      local g = {}
      for k = 1, #info, 2 do g[info[k]] = info[k + 1] end
      local number = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$')) + 1
      if tonumber(g['pending']) > 0 then
        number = tonumber(string.match(redis.call('XPENDING', key, g['name'])[2], '%-(%d+)$'))
      end
      local first = redis.call('XRANGE', key, '0-' .. int(number), '+', 'COUNT', 1)[1]
      if first then oldest = math.min(oldest or math.huge, ms_of(first[2][8])) end
    end
  end
  for _, group in ipairs(redis.call('HKEYS', prefix .. 'groups:' .. id)) do
    oldest = math.min(oldest or math.huge, oldest_outside(id, group, before_ms) or math.huge)
  end
  return oldest
end

-- Messages were kept for as long as their topic keeps them: topic, its version, before when
-- they were published (ms), uuid, metadata, event. The streams lose so many of them at most:
-- one event is for fewer. Where a group has not settled one of them it answers when the
-- oldest of those was published.
local RETAIN_MAX = 2000
ops.Q = function(i)
  local id, before_ms = ARGV[i], tonumber(ARGV[i + 2])
  flush()
  local t = topic(id)
  if t.v ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 6 end
  local oldest = oldest_unsettled(id, before_ms)
  if oldest and oldest < before_ms then return { STALE, '', id, oldest, 0 }, i + 6 end
  local gone, held = 0, 0
  for p = 0, partitions_of(id) - 1 do
    local key = prefix .. 'q:' .. id .. ':' .. p
    local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if head and gone < RETAIN_MAX then
      local first = tonumber(string.match(head[1], '%-(%d+)$')) - 1
      local to = math.min(offset_at(key, first, next_offset(id, t, int(p)), before_ms), first + RETAIN_MAX - gone)
      local newest = redis.call('XREVRANGE', key, '0-' .. int(to), '-', 'COUNT', 1)[1]
      if newest then redis.call('HSET', prefix .. 'topic:' .. id, 'ts:' .. p, int(ms_of(newest[2][8]))) end
      gone = gone + redis.call('XTRIM', key, 'MINID', '=', '0-' .. int(to + 1))
      redis.call('ZREMRANGEBYSCORE', holes_key(id, int(p)), '-inf', to)
    end
    held = held + redis.call('XLEN', key)
  end
  -- Nobody is to settle what a queue without groups held.
  if redis.call('HLEN', prefix .. 'groups:' .. id) == 0 and gone > 0 then
    redis.call('HSET', prefix .. 'topic:' .. id, 'b', int(t.n - held))
  end
  return { OK, record(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]), id, 0, 0 }, i + 6
end

local function schedule_version(id)
  return redis.call('HGET', prefix .. 'schedule:' .. id, 'v') or '0'
end

-- Sets when a schedule ticks next, 0 for never.
local function tick_at(id, at)
  redis.call('HSET', prefix .. 'schedule:' .. id, 'n', at)
  if at == '0' then redis.call('ZREM', prefix .. 'due', 'c|' .. id) else due_at('c|' .. id, tonumber(at)) end
end

-- Schedule created: id, version, state, topic, topic version, next tick, idempotency key,
-- fingerprint, ttl, schedules at most, uuid, metadata, event
ops.J = function(i)
  local id, owner = ARGV[i], ARGV[i + 3]
  local again = remembered(ARGV[i + 6], ARGV[i + 7])
  if again then return again, i + 13 end
  if topic(owner).v ~= ARGV[i + 4] then return { STALE, '', id, 0, 0 }, i + 13 end
  local all = prefix .. 'schedules:' .. owner
  if redis.call('SCARD', all) >= tonumber(ARGV[i + 9]) then return { FULL, '', id, 0, 0 }, i + 13 end
  redis.call('SADD', all, id)
  local pos = record(ARGV[i + 10], ARGV[i + 11], ARGV[i + 12])
  redis.call('HSET', prefix .. 'schedule:' .. id, 'v', ARGV[i + 1], 's', ARGV[i + 2], 'c', pos, 'u', pos)
  tick_at(id, ARGV[i + 5])
  remember(ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], pos, id, '0', '0')
  return { OK, pos, id, 0, 0 }, i + 13
end

-- Schedule paused or resumed: id, version it had, version, state, next tick, uuid,
-- metadata, event
ops.M = function(i)
  local id = ARGV[i]
  if schedule_version(id) ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 8 end
  local pos = record(ARGV[i + 5], ARGV[i + 6], ARGV[i + 7])
  redis.call('HSET', prefix .. 'schedule:' .. id, 'v', ARGV[i + 2], 's', ARGV[i + 3], 'u', pos)
  tick_at(id, ARGV[i + 4])
  return { OK, pos, id, 0, 0 }, i + 8
end

-- Schedule deleted: id, version, topic, uuid, metadata, event
ops.L = function(i)
  local id = ARGV[i]
  if schedule_version(id) ~= ARGV[i + 1] then return { STALE, '', id, 0, 0 }, i + 6 end
  tick_at(id, '0')
  redis.call('DEL', prefix .. 'schedule:' .. id)
  redis.call('SREM', prefix .. 'schedules:' .. ARGV[i + 2], id)
  return { OK, record(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]), id, 0, 0 }, i + 6
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

if last then leave_room(log, last) end
-- Whoever moves what is due is told where that is sooner than it knows.
if soonest then
  local head = redis.call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')
  if tonumber(head[2]) >= soonest then wakeup('d ' .. int(soonest - now)) end
end
send_wakeups()
return out
