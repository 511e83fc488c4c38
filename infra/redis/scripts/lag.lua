-- How far a shard's fold is behind its log.
--
-- KEYS[1]  the shard's log
-- ARGV     prefix
--
-- Answers {now, entries that are not folded (an upper bound where they are many), the last folded entry's id or '',
-- the last entry's id or ''}.
local log, prefix = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local folded = redis.call('GET', prefix .. 'folded') or '0-0'
if redis.call('EXISTS', log) == 0 then return { now, 0, folded, folded } end
local info = redis.call('XINFO', 'STREAM', log)
local stream = {}
for i = 1, #info, 2 do stream[info[i]] = info[i + 1] end
local last = stream['last-generated-id']
if last == folded then return { now, 0, folded, last } end
-- What is folded stays a while, so what is not is counted. Past so many it is all there are.
local COUNT_MAX = 2000
local waiting, from = 0, '(' .. folded
repeat
  local read = redis.call('XRANGE', log, from, '+', 'COUNT', 100)
  waiting = waiting + #read
  if #read > 0 then from = '(' .. read[#read][1] end
until #read < 100 or waiting >= COUNT_MAX
if waiting >= COUNT_MAX then waiting = stream['length'] end
return { now, waiting, folded, last }
