-- Moves a recurring schedule on from one tick to its next, unless it was moved, changed
-- or deleted meanwhile.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, schedule, the tick that was published, the next one
local prefix = ARGV[1]
if redis.call('HGET', prefix .. 'schedule:' .. ARGV[2], 'n') ~= ARGV[3] then return 0 end
redis.call('HSET', prefix .. 'schedule:' .. ARGV[2], 'n', ARGV[4])
redis.call('ZADD', KEYS[1], ARGV[4], 'c|' .. ARGV[2])
return 1
