-- Notes how far a shard's log is folded and removes what is folded, but for what a
-- consumer group on the log has not finished and what is newer than a while. Neither ever
-- goes back, whoever calls.
--
-- KEYS[1]  the shard's log
-- ARGV     prefix, the last folded entry's id, for how long entries are kept in any case in
--          ms
--
-- Answers how many entries went. The keys folded and trimmed hold entry ids.
local log, prefix, folded = KEYS[1], ARGV[1], ARGV[2]

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function before(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

local function advance(key, id)
  local stored = redis.call('GET', key)
  if stored and not before(stored, id) then return false end
  redis.call('SET', key, id)
  return true
end

advance(prefix .. 'folded', folded)
if redis.call('EXISTS', log) == 0 then return 0 end
local floor = folded
local clock = redis.call('TIME')
local kept = string.format('%d-0', tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) - tonumber(ARGV[3]))
if tonumber(ARGV[3]) > 0 and before(kept, floor) then floor = kept end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', log)) do
  local g = {}
  for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
  local finished = g['last-delivered-id']
  if g['pending'] > 0 then finished = redis.call('XPENDING', log, g['name'])[2] end
  if before(finished, floor) then floor = finished end
end
-- Noted first: a reader that starts before it would miss something.
if not advance(prefix .. 'trimmed', floor) then return 0 end
return redis.call('XTRIM', log, 'MINID', '~', floor)
