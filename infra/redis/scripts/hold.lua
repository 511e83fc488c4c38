-- Says that pending entries are still worked on, or hands them back: sets the idle
-- time of those that are still this consumer's. What was settled, deleted or taken
-- over by another consumer stays as it is.
--
-- KEYS[1]  the stream
-- ARGV     group, consumer, then of each entry its id, its idle time in ms and its
--          delivery count ('' leaves it)
--
-- Answers 1 for each entry that is still this consumer's, 0 for the others.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local held = {}
for i = 3, #ARGV, 3 do
  local id, idle, count = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local claimed = {}
  if #redis.call('XPENDING', stream, group, id, id, 1, consumer) == 1 then
    if count == '' then
      claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', idle, 'JUSTID')
    else
      claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
    end
  end
  held[#held + 1] = #claimed
end
return held
