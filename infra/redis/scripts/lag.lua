-- How far a shard's fold is behind its log.
--
-- KEYS[1]  the shard's log
-- ARGV     prefix
--
-- Answers {now, entries that are not folded, the last folded entry's id or '',
-- the last entry's id or ''}.
local log, prefix = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local folded = redis.call('GET', prefix .. 'folded') or '0-0'
if redis.call('EXISTS', log) == 0 then return { now, 0, folded, folded } end
local info = redis.call('XINFO', 'STREAM', log)
local stream = {}
for i = 1, #info, 2 do stream[info[i]] = info[i + 1] end
-- What is folded is trimmed soon, by hundreds: few are left to be counted.
local kept, from = 0, '-'
repeat
  local read = redis.call('XRANGE', log, from, folded, 'COUNT', 100)
  kept = kept + #read
  if #read > 0 then from = '(' .. read[#read][1] end
until #read < 100 or kept >= 10000
return { now, math.max(stream['length'] - kept, 0), folded, stream['last-generated-id'] }
