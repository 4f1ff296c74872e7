-- All pins.
return answer('done', redis.call('HGETALL', base .. 'pins'))
