-- The live state of a topic: per partition the entries held, the next offset and
-- each group's place; per group its retries. One round trip, one moment.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, partitions
--
-- Answers {now, {{length, next offset, first position, {{group, delivered, pending,
-- first unsettled position, entries missing behind what was delivered}…}, first offset
-- that is held}…}, {{group, retries ready or leased, retries
-- leased, retries waiting for their time, first position, consumers that got
-- something within a minute, messages held behind others of their key}…}, messages
-- that wait to be released, {{group, unsettled}…}, the log's last entry id}. Positions are entry ids of the log, '' where there is none.
local topic = ARGV[2]
local now = clock()

local function groups(key)
  local out = {}
  if redis.call('EXISTS', key) == 0 then return out end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local g = {}
    for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
    out[#out + 1] = g
  end
  return out
end

local function position_at(key, from)
  local first = redis.call('XRANGE', key, from, '+', 'COUNT', 1)
  return first[1] and first[1][2][8] or ''
end

local partitions, names = {}, {}
for p = 0, tonumber(ARGV[3]) - 1 do
  local key = prefix .. 'q:' .. topic .. ':' .. p
  local of_partition = {}
  for _, g in ipairs(groups(key)) do
    local last = tonumber(string.match(g['last-delivered-id'], '%-(%d+)$'))
    local unsettled = last + 1
    if g['pending'] > 0 then
      unsettled = tonumber(string.match(redis.call('XPENDING', key, g['name'])[2], '%-(%d+)$'))
    end
    of_partition[#of_partition + 1] =
      { g['name'], last, g['pending'], position_at(key, '0-' .. string.format('%d', unsettled)), holes_from(topic, p, last + 1) }
    names[g['name']] = true
  end
  local nxt = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'o:' .. p) or '0')
  local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  partitions[#partitions + 1] = { redis.call('XLEN', key), nxt, head and head[2][8] or '', of_partition,
    head and tonumber(string.match(head[1], '%-(%d+)$')) - 1 or nxt }
end

-- Notes who of a group got something from a stream within the last minute.
local function see(seen, key, group)
  local infos = redis.pcall('XINFO', 'CONSUMERS', key, group)
  if infos.err then return end
  for _, info in ipairs(infos) do
    local c = {}
    for i = 1, #info, 2 do c[info[i]] = info[i + 1] end
    if c['idle'] < 60000 then seen[c['name']] = true end
  end
end

local retries = {}
for name in pairs(names) do
  local key = prefix .. 'retry:' .. topic .. ':' .. name
  local leased, active = 0, 0
  for _, g in ipairs(groups(key)) do leased = g['pending'] end
  local seen = {}
  see(seen, key, name)
  for p = 0, tonumber(ARGV[3]) - 1 do see(seen, prefix .. 'q:' .. topic .. ':' .. p, name) end
  for _ in pairs(seen) do active = active + 1 end
  local n = redis.call('EXISTS', key) == 1 and redis.call('XLEN', key) or 0
  local waiting = tonumber(redis.call('HGET', prefix .. 'waiting:' .. topic, name) or '0')
  retries[#retries + 1] = { name, n, leased, waiting, position_at(key, '-'), active,
    counted('heldn', topic, name) }
end
local h = redis.call('HMGET', prefix .. 'topic:' .. topic, 'n', 'sc')
local published, unsettled = tonumber(h[1] or '0'), {}
local settled = redis.call('HGETALL', prefix .. 'groups:' .. topic)
for k = 1, #settled, 2 do unsettled[#unsettled + 1] = { settled[k], published - tonumber(settled[k + 1]) } end
return { now, partitions, retries, tonumber(h[2] or '0'), unsettled, log_end() }
