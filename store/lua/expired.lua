-- Sessions that expired before a time. ARGV: 6 that time, 7 how many to pass over, 8 how many at most.
return answer('done', redis.call('ZRANGEBYSCORE', base .. 'sessions', '-inf', '(' .. ARGV[6], 'LIMIT', ARGV[7], ARGV[8]))
