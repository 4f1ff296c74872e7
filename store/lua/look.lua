-- Whether these are the heads of the store, and their epoch.
return answer('done')
