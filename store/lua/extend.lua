-- Append moves to a log. ARGV: 6 session, 7 the sequence expected, 8 the head expected, 9 how many values follow that are fields, these; then
-- of each move its sequence, key and entry.
local id, session = ARGV[6], base .. 'session:' .. ARGV[6]
local moves = 10 + tonumber(ARGV[9])
if attempt > 0 and made(id, ARGV[moves]) then
    return answer('done', redis.call('HGETALL', session))
end
if fenced() then
    return answer('fenced')
end
local now = redis.call('HMGET', session, 'sequence', 'head')
if not now[1] then
    return answer('missing')
end
if now[1] ~= ARGV[7] or now[2] ~= ARGV[8] then
    return answer('moved', redis.call('HGETALL', session))
end
change()
redis.call('HSET', session, unpack(ARGV, 10, moves - 1))
for move = moves, #ARGV, 3 do
    append(id, ARGV[move], ARGV[move + 1], ARGV[move + 2])
end
set_expiry(id)
return answer('done', redis.call('HGETALL', session))
