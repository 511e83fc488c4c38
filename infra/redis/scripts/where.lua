-- Where a message is for a consumer group, at one moment.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, group, message, partition, offset
--
-- Answers {state, now, when its lease or its wait is over (ms since 1970, 0 for unknown),
-- how many of its partition come before it (-1 for unknown), the log's last entry id}.
-- State is waiting, in_flight, retrying, held or ''. At most SEEN_MAX retries are looked
-- through.
local SEEN_MAX, STEP = 10000, 1000
local due, topic, group, message, partition = KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local number = tonumber(ARGV[6]) + 1
local now = clock()
local last = log_end()

local function answer(state, over, ahead) return { state, now, over or 0, ahead or -1, last } end

-- When the lease of a pending entry is over, nil where it is not pending.
local function lease_of(key, stream, entry)
  local pending = redis.pcall('XPENDING', key, group, entry, entry, 1)
  if pending.err or #pending == 0 then return nil end
  local sub = redis.call('HGET', prefix .. 'subs:' .. topic, group .. '/' .. pending[1][2])
  local over = sub and redis.call('ZSCORE', due, table.concat({ 'l', sub, topic, group, stream, entry }, '|'))
  return tonumber(over or '0')
end

local key, entry = prefix .. 'q:' .. topic .. ':' .. partition, '0-' .. int(number)
local leased = lease_of(key, partition, entry)
if leased then return answer('in_flight', leased) end
if redis.call('EXISTS', key) == 1 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local g = {}
    for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
    local delivered = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$'))
    if g['name'] == group and delivered < number and redis.call('XLEN', key) > 0 then
      if #redis.call('XRANGE', key, entry, entry) > 0 then return answer('waiting', 0, number - delivered - 1 - holes_from(topic, partition, delivered + 1) + holes_from(topic, partition, number)) end
    end
  end
end

local parked, cursor, seen = prefix .. 'parked:' .. topic .. ':' .. group, '0', 0
repeat
  local scanned = redis.call('HSCAN', parked, cursor, 'MATCH', '*|' .. message .. '/*', 'COUNT', STEP)
  cursor, seen = scanned[1], seen + STEP
  if scanned[2][1] then return answer('retrying', tonumber(redis.call('ZSCORE', due, scanned[2][1]) or '0')) end
until cursor == '0' or seen >= SEEN_MAX

local retries, from = prefix .. 'retry:' .. topic .. ':' .. group, '-'
seen = 0
repeat
  local read = redis.call('XRANGE', retries, from, '+', 'COUNT', STEP)
  for _, e in ipairs(read) do
    if e[2][2] == message then
      local lease = lease_of(retries, '-1', e[1])
      if lease then return answer('in_flight', lease) end
      local f = {}
      for i = 9, #e[2] - 1, 2 do f[e[2][i]] = tonumber(e[2][i + 1]) end
      -- A first try stands there too, where the one before it of its key was settled.
      if (f['att'] or 2) - (f['base'] or 0) == 1 then return answer('waiting', 0, 0) end
      return answer('retrying', now)
    end
  end
  if #read > 0 then from = '(' .. read[#read][1] end
  seen = seen + #read
until #read < STEP or seen >= SEEN_MAX

if counted('heldn', topic, group) > 0 then
  for _, name in ipairs(redis.call('HKEYS', prefix .. 'busy:' .. topic .. ':' .. group)) do
    for at, packed in ipairs(redis.call('LRANGE', held_key(topic, group, name), 0, STEP - 1)) do
      if cmsgpack.unpack(packed)[2] == message then return answer('held', 0, at) end
    end
  end
end
return answer('')
