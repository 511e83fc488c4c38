-- Takes up again what a subscription has leased and not settled, for a successor of
-- the consumer that leased it: its leases are renewed, the entries answered as
-- lease.lua does. Retries come first, then the partitions in order, each of them from
-- its oldest entry on.
--
-- Only what the due set has a lease of in this subscription's name is taken up: other
-- members of the group keep theirs. A lease that ran out and is being decided on (see
-- due.lua) is renewed too. If that decision still comes, it is the one that counts: the
-- attempt ends with it, the message comes once more, and whoever resumed it finds its
-- lease lost.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, group, consumer, subscription, subscription version,
--          messages at most, lease in ms, bytes at most
--
-- Answers {status, now, {{stream, entry id, fields}…}, attempts before}; status 2 is
-- stale.
local STEP = 100

local due = KEYS[1]
local topic, group, consumer, sub = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most, lease, bytes_most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local partitions = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'p') or '0')
local now = clock()

if (redis.call('HGET', prefix .. 'sub:' .. sub, 'v') or '0') ~= ARGV[6] then
  return { 2, now, {}, 0 }
end

local out, bytes = {}, 0

local function renew(stream, key, entry)
  local name = table.concat({ sub, topic, group, stream, entry }, '|')
  local is_expiring = redis.call('ZSCORE', due, 'x|' .. name)
  if not is_expiring and not redis.call('ZSCORE', due, 'l|' .. name) then return end
  -- Without a count of deliveries, as this is the same attempt. An entry that was
  -- deleted is pending no more after it, and due.lua drops its lease.
  local mine = redis.call('XCLAIM', key, group, consumer, 0, entry, 'JUSTID')
  local read = redis.call('XRANGE', key, entry, entry)[1]
  if #mine == 0 or not read then return end
  if is_expiring then redis.call('ZREM', due, 'x|' .. name) end
  redis.call('ZADD', due, now + lease, 'l|' .. name)
  out[#out + 1] = { stream, entry, read[2] }
  bytes = bytes + #read[2][6]
end

local function take(stream, key)
  local from = '-'
  while #out < most and bytes < bytes_most do
    local pending = redis.call('XPENDING', key, group, from, '+', STEP)
    for _, p in ipairs(pending) do
      if #out >= most or bytes >= bytes_most then return end
      renew(stream, key, p[1])
    end
    if #pending < STEP then return end
    from = '(' .. pending[STEP][1]
  end
end

take('-1', prefix .. 'retry:' .. topic .. ':' .. group)
for n = 0, partitions - 1 do
  local p = int(n)
  take(p, prefix .. 'q:' .. topic .. ':' .. p)
end
return { 0, now, out, attempts_before(topic, group) }
