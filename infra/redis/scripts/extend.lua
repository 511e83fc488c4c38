-- Moves the end of leases. An entry that is settled, handed back or about to be
-- (see due.lua) is lost.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, group, subscription, lease in ms, then stream and entry
--          of each lease
--
-- Answers {end of the leases in ms since 1970, {1 or 0 for each}}.
local due, prefix, topic, group, sub = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ends = now + tonumber(ARGV[5])
local held = {}
for i = 6, #ARGV, 2 do
  local member = table.concat({ 'l', sub, topic, group, ARGV[i], ARGV[i + 1] }, '|')
  if redis.call('ZSCORE', due, member) then
    redis.call('ZADD', due, ends, member)
    held[#held + 1] = 1
  else
    held[#held + 1] = 0
  end
end
return { ends, held }
