-- Leases up to a number of messages to a consumer: retries that are ready first,
-- then what is new, partition by partition from a rotating start.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, group, consumer, subscription, subscription version,
--          messages at most, lease in ms, bytes at most, where to start, 1 for ordered,
--          finished entries kept per partition for late readers
--
-- Answers {status, now, {{stream, entry id, fields}…}, attempts before, 1 for more};
-- status 2 is stale. An ordered group gets no message of a key while it has another:
-- those behind it are held. However many are, one call looks at HELD_MAX of them, and
-- there may be more then although it answers with none.
local STEP, HELD_MAX = 8, 1000

local due = KEYS[1]
local topic, group, consumer, sub = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most, lease, bytes_most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local partitions = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'p') or '0')
local start = tonumber(ARGV[10])
local now = clock()
local ordered, keep = ARGV[11] == '1', tonumber(ARGV[12])

if (redis.call('HGET', prefix .. 'sub:' .. sub, 'v') or '0') ~= ARGV[6] then
  return { 2, now, {}, 0, 0 }
end

local out, bytes, held = {}, 0, 0
local attempted = attempts_before(topic, group)
local busy = prefix .. 'busy:' .. topic .. ':' .. group
if ordered and redis.call('HGET', prefix .. 'topic:' .. topic, 'ord:' .. group) ~= '1' then
  redis.call('HSET', prefix .. 'topic:' .. topic, 'ord:' .. group, '1')
end

-- Puts a message of an ordered group behind the one of its key that is not settled, and
-- reports whether there is one. What is to be tried again has its turn already, unless it
-- comes from before the group was ordered.
local function is_held(stream, key, entry)
  local name, message = key_of(entry[2]), entry[2][2]
  if not name or redis.call('HSETNX', busy, name, message) == 1 then return false end
  local is_retry = stream == '-1'
  if is_retry and redis.call('HGET', busy, name) == message then return false end
  if not is_retry then complete(entry[2], stream, entry[1], int(attempted + 1), int(attempted)) end
  hold(topic, group, name, entry[2])
  redis.call('XACK', key, group, entry[1])
  if is_retry then redis.call('XDEL', key, entry[1]) else count_and_trim(topic, stream, 1, keep) end
  held, bytes = held + 1, bytes + #entry[2][6]
  return true
end

-- Reads in small steps, so that messages stop near the byte limit: what the next
-- ones weigh cannot be known, however light the ones before were.
local function take(stream, key)
  while #out < most and bytes < bytes_most and held < HELD_MAX do
    local count = math.min(most - #out, STEP)
    if #out > 0 then
      local mean = math.max(bytes / #out, 1)
      count = math.max(1, math.min(count, math.floor((bytes_most - bytes) / mean)))
    end
    local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, '>')
    if not read then return end
    local entries = read[1][2]
    local scores = {}
    for _, entry in ipairs(entries) do
      if not ordered or not is_held(stream, key, entry) then
        out[#out + 1] = { stream, entry[1], entry[2] }
        bytes = bytes + #entry[2][6]
        scores[#scores + 1] = now + lease
        scores[#scores + 1] = table.concat({ 'l', sub, topic, group, stream, entry[1] }, '|')
      end
    end
    if #scores > 0 then redis.call('ZADD', due, unpack(scores)) end
    if #entries < count then return end
  end
end

take('-1', prefix .. 'retry:' .. topic .. ':' .. group)
for n = 0, partitions - 1 do
  if #out >= most or bytes >= bytes_most then break end
  local p = int((start + n) % partitions)
  take(p, prefix .. 'q:' .. topic .. ':' .. p)
end
return { 0, now, out, attempted, (held >= HELD_MAX or (held > 0 and bytes >= bytes_most)) and 1 or 0 }
