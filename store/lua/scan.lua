-- Some of all sessions, each with when it expires: every one that stays comes, as Redis promises of a scan. ARGV: 6 cursor, 7 about how many.
local page = redis.call('ZSCAN', base .. 'sessions', ARGV[6], 'COUNT', ARGV[7])
return answer('done', page[1], page[2])
