-- What the scripts of delivery share; it stands before each of them. ARGV[1] is the
-- shard's prefix in all of them.
--
-- Of a topic and a group there are, beside the streams and what append.lua says:
--   parked:<topic>:<group>  retries that wait for their time, by their name in the due set
--   waiting:<topic>         how many retries of each group wait for their time
--   busy:<topic>:<group>    of an ordered group: the keys (as SHA-1) of which a message is
--                           handed out, or waits for another attempt, and that message
--   held:<topic>:<group>:<key as SHA-1>  the messages behind it, in order
--   heldn:<topic>           how many messages of each group are held
--   erased:<message>        there for a while after a message's payload was erased
--   holes:<topic>:<partition>  the entries that are missing between those of a partition's
--                           stream, as their messages' payloads were erased (a sorted set,
--                           by number)
-- and in the topic's hash:
--   so                      where the first message was scheduled since none waited
--   ts:<partition>          until when (ms since 1970) what was trimmed from the partition's
--                           stream was published
--   sp:<partition>          "position|offset": where the oldest message was scheduled of
--                           those that were released into the partition, and the newest
--                           one's offset
local prefix = ARGV[1]
local UUID, META, DATA = '_watermill_message_uuid', 'metadata', 'payload'

local function int(n) return string.format('%d', n) end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function stream_key(topic, group, stream)
  if stream == '-1' then
    return prefix .. 'retry:' .. topic .. ':' .. group
  end
  return prefix .. 'q:' .. topic .. ':' .. stream
end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end

local function counted(name, id, group)
  return tonumber(redis.call('HGET', prefix .. name .. ':' .. id, group) or '0')
end

-- Whether a group has messages outside of the partitions' streams: to be tried again, or
-- held behind another one.
local function has_outside(id, group)
  return counted('waiting', id, group) > 0 or counted('heldn', id, group) > 0
    or redis.call('XLEN', prefix .. 'retry:' .. id .. ':' .. group) > 0
end

-- Notes where the oldest message stands that a group has outside of the partitions'
-- streams: to be tried again, or held behind another one.
local function note_outside(id, group, pos)
  local key, field = prefix .. 'topic:' .. id, 'w:' .. group
  local oldest = redis.call('HGET', key, field)
  if not oldest or not has_outside(id, group) or before(pos, oldest) then redis.call('HSET', key, field, pos) end
end

-- Where a message was accepted: before its stream entry's position, where it was scheduled.
local function origin(fields)
  return fields[9] == 'sched' and fields[10] or fields[8]
end

-- Sets a field of a retry stream's entry.
local function set_field(fields, name, value)
  for n = 9, #fields - 1, 2 do
    if fields[n] == name then
      fields[n + 1] = value
      return
    end
  end
  local n = #fields
  fields[n + 1], fields[n + 2] = name, value
end

-- The key of an entry as it stands in names, nil where the message has none.
local function key_of(fields)
  local key = cmsgpack.unpack(fields[4])['tallymq-key']
  return key and redis.sha1hex(key)
end

local function held_key(id, group, key) return prefix .. 'held:' .. id .. ':' .. group .. ':' .. key end

-- Adds to an entry of a partition's stream what an entry of a retry stream has.
local function complete(fields, stream, entry, attempt, attempts_before)
  local n = #fields
  fields[n + 1], fields[n + 2] = 'off', int(tonumber(string.match(entry, '%-(%d+)$')) - 1)
  fields[n + 3], fields[n + 4] = 'part', stream
  fields[n + 5], fields[n + 6] = 'att', attempt
  fields[n + 7], fields[n + 8] = 'base', attempts_before
end

local function holes_key(id, partition) return prefix .. 'holes:' .. id .. ':' .. partition end

-- How many entries are missing from a partition's stream of a number or above.
local function holes_from(id, partition, number)
  return redis.call('ZCOUNT', holes_key(id, partition), number, '+inf')
end

local function hold(id, group, key, fields)
  note_outside(id, group, origin(fields))
  redis.call('RPUSH', held_key(id, group, key), cmsgpack.pack(fields))
  redis.call('HINCRBY', prefix .. 'heldn:' .. id, group, 1)
end

-- What a fresh message's attempts are counted from in a group.
local function attempts_before(id, group)
  return tonumber(redis.call('HGET', prefix .. 'topic:' .. id, 'ab:' .. group) or '0')
end

-- Wake-ups, each line once; see wake.go.
local wake, woken = {}, {}

local function wakeup(line)
  if not woken[line] then
    woken[line] = true
    wake[#wake + 1] = line
  end
end

local function send_wakeups()
  if #wake > 0 then redis.call('PUBLISH', prefix .. 'wake', table.concat(wake, '\n')) end
end

-- The last entry's id of the shard's log.
local function log_end()
  local log = prefix .. 'log'
  if redis.call('EXISTS', log) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

-- Counts settlements of a partition, and once in a thousand trims it below what every
-- group has finished, but for the newest keep entries: so it costs next to nothing.
local TRIM_STEP = 1000
local function count_and_trim(id, partition, settlements, keep)
  local hash, key = prefix .. 'topic:' .. id, prefix .. 'q:' .. id .. ':' .. partition
  local a = redis.call('HINCRBY', hash, 'a:' .. partition, settlements)
  if math.floor(a / TRIM_STEP) == math.floor((a - settlements) / TRIM_STEP) then return end
  local floor = tonumber(redis.call('HGET', hash, 'o:' .. partition) or '0') - keep
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
  local newest = redis.call('XREVRANGE', key, '0-' .. int(math.max(floor, 0)), '-', 'COUNT', 1)[1]
  if not newest then return end
  redis.call('XTRIM', key, 'MINID', '=', '0-' .. int(floor + 1))
  redis.call('ZREMRANGEBYSCORE', holes_key(id, partition), '-inf', floor)
  redis.call('HSET', hash, 'ts:' .. partition, (string.match(newest[2][8], '^(%d+)')))
end

-- The log numbers entries on in the last millisecond it knew while the clock is behind
-- it (it was set back). A position holds 2^20 of them, so the log goes to the next
-- millisecond well before.
local function leave_room(log, last)
  local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
  if tonumber(seq) >= 2^20 - 2^14 then
    redis.call('XSETID', log, string.format('%d-0', tonumber(ms) + 1))
  end
end
