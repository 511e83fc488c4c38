-- Leases up to a number of messages to a consumer: retries that are ready first,
-- then what is new, partition by partition from a rotating start.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, group, consumer, subscription, subscription version,
--          messages at most, lease in ms, bytes at most, where to start
--
-- Answers {status, now, {{stream, entry id, fields}…}}; status 2 is stale.
local STEP = 8

local due, prefix = KEYS[1], ARGV[1]
local topic, group, consumer, sub = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most, lease, bytes_most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local partitions = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'p') or '0')
local start = tonumber(ARGV[10])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

if (redis.call('HGET', prefix .. 'sub:' .. sub, 'v') or '0') ~= ARGV[6] then
  return { 2, now, {} }
end

local out, bytes = {}, 0

-- Reads in small steps, so that messages stop near the byte limit: what the next
-- ones weigh cannot be known, however light the ones before were.
local function take(stream, key)
  while #out < most and bytes < bytes_most do
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
      out[#out + 1] = { stream, entry[1], entry[2] }
      bytes = bytes + #entry[2][6]
      scores[#scores + 1] = now + lease
      scores[#scores + 1] = table.concat({ 'l', sub, topic, group, stream, entry[1] }, '|')
    end
    redis.call('ZADD', due, unpack(scores))
    if #entries < count then return end
  end
end

take('-1', prefix .. 'retry:' .. topic .. ':' .. group)
for n = 0, partitions - 1 do
  if #out >= most or bytes >= bytes_most then break end
  local p = string.format('%d', (start + n) % partitions)
  take(p, prefix .. 'q:' .. topic .. ':' .. p)
end
return { 0, now, out }
