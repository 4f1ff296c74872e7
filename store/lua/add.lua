-- Add sessions with their logs, all or none. ARGV: 6 `new`, or `instead` of what there is, 7 how many; then of each its id, how many values
-- follow that are fields, these, how many moves follow, and of each its sequence, key and entry.
local at, added = 8, {}
for _ = 1, tonumber(ARGV[7]) do
    local one = {id = ARGV[at], fields = at + 2, moves = at + 3 + tonumber(ARGV[at + 1])}
    one.after = one.moves + 3 * tonumber(ARGV[one.moves - 1])
    at = one.after
    added[#added + 1] = one
end
if attempt > 0 and added[1] and made(added[1].id, ARGV[added[1].moves]) then
    return answer('done')
end
if fenced() then
    return answer('fenced')
end
local seen = {}
for _, one in ipairs(added) do
    if ARGV[6] == 'new' and (seen[one.id] or redis.call('EXISTS', base .. 'session:' .. one.id) == 1) then
        return answer('exists', one.id)
    end
    seen[one.id] = true
end
change()
for _, one in ipairs(added) do
    if ARGV[6] == 'instead' then
        remove(one.id)
    end
    redis.call('HSET', base .. 'session:' .. one.id, unpack(ARGV, one.fields, one.moves - 2))
    list(one.id)
    for move = one.moves, one.after - 1, 3 do
        append(one.id, ARGV[move], ARGV[move + 1], ARGV[move + 2])
    end
    set_expiry(one.id)
end
return answer('done')
